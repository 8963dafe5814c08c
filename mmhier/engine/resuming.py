"""Resuming with another config: what differs, and the schedule of the new."""
import copy
import warnings
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmhier.errors import MMHierError

# State of a scheduler that changes as it steps.
_PROGRESS = {'last_step', '_global_step', '_last_value', 'verbose'}


def describe_training(runner: Runner) -> dict[str, Any]:
    """Facts of a training that a checkpoint keeps to be compared.

    Args:
        runner (Runner): In training.

    Returns:
        dict: Batch size, processes, images, and type of the optimizer.
    """
    wrapper = runner.optim_wrapper
    optimizer = getattr(wrapper, 'optimizer', wrapper)
    return dict(
        batch_size=runner.train_dataloader.batch_size,
        processes=runner.world_size,
        accumulative_counts=getattr(wrapper, '_accumulative_counts', 1),
        images=len(runner.train_dataloader.dataset),
        optimizer=type(optimizer).__name__)


class ConfiguredSchedule:
    """Optimizer and schedule as the config states them, before resuming.

    mmengine takes both from the checkpoint, so that another schedule, or a
    longer one, would have no effect.

    Args:
        runner (Runner): Whose optimizer and schedulers are built, but not
            resumed.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.schedulers = runner.param_schedulers or []
        self.states = [copy.deepcopy(s.state_dict()) for s in self.schedulers]
        self.groups = [_settings(g) for g in runner.optim_wrapper.param_groups]

    def compare(self, checkpoint: dict) -> list[str]:
        """Name what differs from a checkpoint that was resumed.

        Args:
            checkpoint (dict): Content.

        Raises:
            MMHierError: If the checkpoint is of another optimizer.
        """
        lines = []
        own = describe_training(self.runner)
        for key, value in (checkpoint.get('trained_with') or {}).items():
            if own[key] != value:
                lines.append(f'{key} was {value} and is {own[key]}')
        classes = (checkpoint['meta'].get('dataset_meta') or {}).get('classes')
        metainfo = getattr(self.runner.train_dataloader.dataset, 'metainfo', {})
        if classes and list(classes) != list(metainfo.get('classes') or ()):
            lines.append('classes were ' + ', '.join(classes[:5]) +
                         ' and are ' +
                         ', '.join(list(metainfo.get('classes') or ())[:5]))
        return lines + self._compare_schedule(checkpoint)

    def _compare_schedule(self, checkpoint: dict) -> list[str]:
        lines = []
        stored = checkpoint.get('param_schedulers') or []
        if len(stored) != len(self.states):
            lines.append(f'param_scheduler had {len(stored)} parts and has '
                         f'{len(self.states)}')
        for i, (old, new) in enumerate(zip(stored, self.states)):
            lines += [
                f'param_scheduler.{i}.{key} was {_short(old.get(key))} and is '
                f'{_short(value)}' for key, value in new.items()
                if key not in _PROGRESS and old.get(key) != value
            ]
        scheduled = {s.param_name for s in self.schedulers}
        groups = checkpoint['optimizer']['param_groups']
        for key, value in self.groups[0].items():
            old = groups[0].get(key, value)
            if key not in scheduled and old != value:
                lines.append(f'{key} of the optimizer was {old} and is {value}')
        return lines

    def restore(self) -> None:
        """Go on with the schedule of the config.

        The schedulers step from the start to the resumed iteration, as those
        of an uninterrupted training would have.
        """
        loop = self.runner.train_loop
        for group, settings in zip(self.runner.optim_wrapper.param_groups,
                                   self.groups):
            group.update(copy.deepcopy(settings))
        for scheduler, state in zip(self.schedulers, self.states):
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
        for scheduler in self.schedulers:
            if scheduler.by_epoch == by_epoch:
                scheduler.step()

    @classmethod
    def of(cls, runner: Runner) -> 'ConfiguredSchedule | None':
        """The schedule of a runner, None for several optimizers and for
        schedules that follow a metric, which cannot be repeated."""
        schedulers = runner.param_schedulers or []
        if (not isinstance(runner.optim_wrapper, OptimWrapper)
                or isinstance(schedulers, dict)
                or any(hasattr(s, 'monitor') for s in schedulers)):
            return None
        return cls(runner)


def check_optimizer_fits(runner: Runner, checkpoint: dict) -> None:
    """Refuse the state of an optimizer of another type.

    Args:
        runner (Runner): Whose optimizer is built.
        checkpoint (dict): Content.

    Raises:
        MMHierError: Names both types.
    """
    stored = (checkpoint.get('trained_with') or {}).get('optimizer')
    own = describe_training(runner)['optimizer']
    if stored is not None and stored != own:
        raise MMHierError(
            f'--resume: the checkpoint was trained by {stored}, the config '
            f'states {own}, which cannot go on with its state: set '
            f'optim_wrapper.optimizer.type={stored}, or start from the weights '
            'with --cfg-options load_from=PATH')


def _settings(group: dict) -> dict[str, Any]:
    return {k: copy.deepcopy(v) for k, v in group.items() if k != 'params'}


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f'[{value[0]}, ...]'
    return str(dict(value) if isinstance(value, dict) else value)
