"""Resuming with another config: list differences and follow its schedule."""
import copy
import hashlib
import os.path as osp
import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmhier.datasets.mask_checks import spread_evenly
from mmhier.datasets.wrappers import inner_datasets
from mmhier.errors import MMHierError
from mmhier.files import file_sha256

# State of a scheduler that changes as it steps.
_PROGRESS = {
    'last_step', '_global_step', '_last_value', 'verbose', 'best',
    'num_bad_epochs', 'cooldown_counter'
}
_MAX_LISTED = 1000


def describe_training(runner: Any) -> dict[str, Any]:
    """Facts of a training, stored in checkpoints for comparison.

    Args:
        runner (Runner | FlexibleRunner): In training.

    Returns:
        dict: Length, batch size, processes, images, a hash of the data, and
        types of the optimizers.
    """
    loop = runner.train_loop
    length = 'max_iters' if hasattr(loop,
                                    'dataloader_iterator') else 'max_epochs'
    wrapper = runner.optim_wrapper
    dataset = runner.train_dataloader.dataset
    return {
        length: getattr(loop, length, None),
        'batch_size': runner.train_dataloader.batch_size,
        'processes': runner.world_size,
        'accumulative_counts': getattr(wrapper, '_accumulative_counts', 1),
        'images': len(dataset),
        'data': hash_data(dataset),
        'optimizer': _optimizer_names(wrapper),
    }


def hash_data(dataset: Any) -> str:
    """Hash of annotation files and of up to 1,000 samples, evenly spread.

    Args:
        dataset (Dataset): Or a wrapper such as ConcatDataset.

    Returns:
        str: First digits of a SHA-256 of the annotation files, and of names,
        labels, and sizes of images and masks.
    """
    digest = hashlib.sha256()
    for inner in inner_datasets(dataset):
        path = getattr(inner, 'ann_file', None)
        if isinstance(path, str) and osp.isfile(path):
            digest.update(file_sha256(path).encode())
        if not hasattr(inner, 'get_data_info'):
            continue
        root = getattr(inner, 'data_root', None) or '.'
        for i in spread_evenly(range(len(inner)), _MAX_LISTED):
            info = inner.get_data_info(i)
            facts = [info.get('gt_label')]
            for key in ('img_path', 'seg_map_path'):
                file = info.get(key)
                if isinstance(file, str):
                    size = osp.getsize(file) if osp.isfile(file) else None
                    facts += [osp.relpath(file, root), size]
            digest.update(repr(facts).encode(errors='surrogateescape'))
    return digest.hexdigest()[:16]


def resumed_facts(checkpoint: dict) -> dict[str, Any]:
    """Parts of a checkpoint to compare with a config.

    Args:
        checkpoint (dict): Content, before training goes on from it.

    Returns:
        dict: ``meta``, ``trained_with``, ``param_schedulers`` and the settings
        of parameter ``groups`` by optimizer.
    """
    facts = {
        key: checkpoint.get(key)
        for key in ('meta', 'trained_with', 'param_schedulers')
    }
    facts['groups'] = copy.deepcopy(_stored_groups(checkpoint))
    return facts


class ConfiguredSchedule:
    """Optimizers and schedules of the config, stored before resuming.

    mmengine takes both from the checkpoint, so another or a longer schedule in
    the config would have no effect.

    Args:
        runner (Runner | FlexibleRunner): Whose optimizers and schedulers are
            built, but not resumed.
    """

    def __init__(self, runner: Any):
        self.runner = runner
        self.schedulers = _by_optimizer(runner.param_schedulers or [])
        self.states = {
            name: [copy.deepcopy(s.state_dict()) for s in schedulers]
            for name, schedulers in self.schedulers.items()
        }
        self.groups = {
            name: [_settings(group) for group in wrapper.param_groups]
            for name, wrapper in _wrappers(runner.optim_wrapper).items()
        }

    def take_over(self, filename: str, resumed: dict[str, Any]) -> None:
        """Log the differences from a checkpoint; restore the config's schedule.

        Args:
            filename (str): The checkpoint.
            resumed (dict): Returned by :func:`resumed_facts`.

        Raises:
            MMHierError: If schedule or optimizer differ and the schedule
                follows a metric, so it cannot be repeated.
        """
        schedule = list(self._compare_schedules(resumed))
        different = self._compare_facts(resumed) + [
            line for _, line in schedule
        ]
        if not different:
            return
        message = (f'the config differs from the resumed {filename}: '
                   f'{"; ".join(different)}')
        follows_metric = any(
            hasattr(s, 'monitor') for schedulers in self.schedulers.values()
            for s in schedulers)
        if follows_metric and any(key != 'end' for key, _ in schedule):
            raise MMHierError(
                f'--resume: {message}. A ReduceOnPlateau schedule follows the '
                'metrics of the run, so it cannot be repeated with other '
                'settings: restore them, or start from the weights with '
                '--cfg-options load_from=PATH')
        self.runner.logger.warning(f'{message}. The run goes on as the config '
                                   'says')
        if follows_metric:
            for name, schedulers in self.schedulers.items():
                for scheduler, state in zip(schedulers, self.states[name]):
                    scheduler.end = state['end']
        elif schedule:
            self._restore()

    def _compare_facts(self, resumed: dict[str, Any]) -> list[str]:
        own = describe_training(self.runner)
        lines = [
            f'{key} was {value} and is {own.get(key)}'
            for key, value in (resumed['trained_with'] or {}).items()
            if own.get(key) != value
        ]
        meta = (resumed['meta'] or {}).get('dataset_meta') or {}
        dataset = self.runner.train_dataloader.dataset
        old = list(meta.get('classes') or ())
        new = list((getattr(dataset, 'metainfo', None) or {}).get('classes')
                   or ())
        if old and old != new:
            lines.append(f'classes were {_shorten(old)} and are '
                         f'{_shorten(new)}')
        return lines

    def _compare_schedules(
            self, resumed: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Key, '' if there is none, and description of each difference."""
        stored_schedulers = _by_optimizer(resumed['param_schedulers'] or [])
        for name, own in self.states.items():
            stored = stored_schedulers.get(name, [])
            owner = f'param_scheduler.{name}' if name else 'param_scheduler'
            if len(stored) != len(own):
                yield '', f'{owner} had {len(stored)} parts and has {len(own)}'
            for i, (old, new) in enumerate(zip(stored, own)):
                for key, value in new.items():
                    if key not in _PROGRESS and old.get(key) != value:
                        yield key, (f'{owner}.{i}.{key} was '
                                    f'{_short(old.get(key))} and is '
                                    f'{_short(value)}')
        for name, groups in self.groups.items():
            for line in self._compare_groups(name, groups, resumed['groups']):
                yield '', line

    def _compare_groups(self, name: str, groups: list[dict],
                        stored: dict[str, list]) -> list[str]:
        """Descriptions of the first parameter group that differs."""
        scheduled = {s.param_name for s in self.schedulers.get(name, ())}
        owner = f'the optimizer {name}'.rstrip()
        for i, (new, old) in enumerate(zip(groups, stored[name])):
            where = f' (group {i})' if i else ''
            lines = [
                f'{key} of {owner}{where} was {_short(old[key])} and is '
                f'{_short(value)}' for key, value in new.items()
                if key not in scheduled and old.get(key, value) != value
            ]
            if lines:
                return lines
        return []

    def _restore(self) -> None:
        """Set the optimizers and schedules of the config.

        The schedulers step from the start to the resumed iteration, as those
        of an uninterrupted training would have.
        """
        loop = self.runner.train_loop
        for name, wrapper in _wrappers(self.runner.optim_wrapper).items():
            for group, settings in zip(wrapper.param_groups, self.groups[name]):
                group.update(copy.deepcopy(settings))
        for name, schedulers in self.schedulers.items():
            for scheduler, state in zip(schedulers, self.states[name]):
                scheduler.load_state_dict(copy.deepcopy(state))
        length = loop.iter
        if loop.epoch:
            length = min(
                len(self.runner.train_dataloader), loop.iter // loop.epoch)
        epoch = 0
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # No step of the optimizer.
            for i in range(1, loop.iter + 1):
                self._step(by_epoch=False)
                if epoch < loop.epoch and i % length == 0:
                    self._step(by_epoch=True)
                    epoch += 1

    def _step(self, by_epoch: bool) -> None:
        for schedulers in self.schedulers.values():
            for scheduler in schedulers:
                if scheduler.by_epoch == by_epoch:
                    scheduler.step()


def check_optimizer_fits(optim_wrapper: Any, checkpoint: dict) -> None:
    """Refuse the state of other optimizers, or of other parameter groups.

    Args:
        optim_wrapper (OptimWrapper | OptimWrapperDict): Built.
        checkpoint (dict): Content.

    Raises:
        MMHierError: Names the differences.
    """
    advice = 'or start from the weights with --cfg-options load_from=PATH'
    stored = (checkpoint.get('trained_with') or {}).get('optimizer')
    own = _optimizer_names(optim_wrapper)
    if stored is not None and stored != own:
        raise MMHierError(
            f'--resume: the checkpoint was trained by {stored}, the config '
            f'states {own}, which cannot go on with its state: set '
            f'optim_wrapper.optimizer.type={stored}, {advice}')
    groups = _stored_groups(checkpoint)
    wrappers = _wrappers(optim_wrapper)
    if set(groups) != set(wrappers):
        raise MMHierError(
            '--resume: the checkpoint has the state of the optimizers '
            f'{_shorten(list(groups))}, the config of '
            f'{_shorten(list(wrappers))}: name them alike, {advice}')
    for name, wrapper in wrappers.items():
        # optimizer.param_groups lacks the group of base settings that
        # mmengine's wrapper adds.
        sizes = [len(g['params']) for g in wrapper.optimizer.param_groups]
        stored_sizes = [len(g['params']) for g in groups[name]]
        # FSDP names parameters and may count one here as several.
        by_name = any(isinstance(p, str) for p in groups[name][0]['params'])
        if len(sizes) != len(stored_sizes) or (not by_name
                                               and sizes != stored_sizes):
            raise MMHierError(
                '--resume: the optimizer of the checkpoint has '
                f'{len(stored_sizes)} groups with {sum(stored_sizes)} '
                f'parameters, that of the config {len(sizes)} with '
                f'{sum(sizes)}: set optim_wrapper.paramwise_cfg and the '
                f'constructor as they were, {advice}')


def _wrappers(optim_wrapper: Any) -> dict[str, Any]:
    """Optimizer wrappers by name; a single one is named ''."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return dict(optim_wrapper.items())
    return {'': optim_wrapper}


def _by_optimizer(schedulers: Any) -> dict[str, Any]:
    return schedulers if isinstance(schedulers, dict) else {'': schedulers}


def _stored_groups(checkpoint: dict) -> dict[str, list[dict]]:
    """Parameter groups in a checkpoint by the name of the optimizer."""
    state = checkpoint['optimizer']
    if 'param_groups' in state:
        return {'': state['param_groups']}
    return {name: part['param_groups'] for name, part in state.items()}


def _optimizer_names(optim_wrapper: Any) -> str:
    return ', '.join(
        f'{name}: {type(wrapper.optimizer).__name__}'.removeprefix(': ')
        for name, wrapper in _wrappers(optim_wrapper).items())


def _settings(group: dict) -> dict[str, Any]:
    return {k: copy.deepcopy(v) for k, v in group.items() if k != 'params'}


def _shorten(names: list[str]) -> str:
    return ', '.join(names[:5]) + ', ...' * (len(names) > 5)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f'[{value[0]}, ...]'
    if isinstance(value, float):
        return f'{value:g}'
    return str(dict(value) if isinstance(value, dict) else value)
