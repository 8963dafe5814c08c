"""The dry run before a training: everything that can go wrong, looked at."""
import copy
import math
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, init_default_scope
from torch import nn
from mmhier.checkpoints import (
    convert_for_model,
    read_checkpoint,
    unwrap_state_dict,
)
from mmhier.checkpoints.initializer import init_weights
from mmhier.datasets.data_checks import check_data
from mmhier.engine.build import build_model
from mmhier.engine.checkpoints import CheckpointFitHook
from mmhier.engine.config import iter_datasets, load_config, type_name
from mmhier.engine.config_errors import (
    check_log_packages,
    naming_config_errors,
)
from mmhier.engine.memory import collect_saved_bytes
from mmhier.engine.pretrained import find_pretrained
from mmhier.engine.runner import Runner
from mmhier.engine.runtime_checks import check_runtime
from mmhier.errors import MMHierError
from mmhier.evaluation.dry_run import dry_evaluate
from .counting import count_images
from .trial_batches import (
    build_wrapper,
    compute_losses,
    count_bytes,
    other_batches,
    precisions,
    show_duration,
    show_size,
    single_process,
)

LEVELS = ('error', 'warning', 'note')
_PHASES = ('train', 'val', 'test')
# The first float32 step also warms up. In float16, the scale of the loss,
# 2**16 at the start, is halved until the gradients are finite.
_NUM_STEPS = {'float32': 2, 'bfloat16': 1, 'float16': 16}


@dataclass
class Finding:
    """Something that a dry run found.

    Attributes:
        level (str): 'error' (training would fail or learn nothing),
            'warning' (probably not what was meant) or 'note'.
        subject (str): Subject of the finding, such as 'train data' or 'model'.
        message (str): The finding, and how to mend it.
    """
    level: str
    subject: str
    message: str


def check_config(config: str,
                 *,
                 data_root: str | None = None,
                 data_format: str | None = None,
                 classes: list[str] | None = None,
                 checkpoint: str | None = None,
                 every_file: bool = False,
                 num_gpus: int = 1,
                 from_scratch: bool = False,
                 cfg_options: dict[str, Any] | None = None) -> list[Finding]:
    """Try everything that a training needs, without training.

    Nothing is written but to a temporary folder; missing folders of outputs
    are created. A part that fails ends as a finding, whichever package raised
    the error, and the parts that do not need it are tried all the same.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain.
        data_root (str, optional): See :func:`mmhier.apis.load_config`.
        data_format (str, optional): See :func:`mmhier.apis.load_config`.
        classes (list[str], optional): See :func:`mmhier.apis.load_config`.
        checkpoint (str, optional): Compared with the model as
            ``tools/test.py`` would. Defaults to None.
        every_file (bool): Decode every image and mask rather than 100 and
            200 spread evenly over each set. Defaults to False.
        num_gpus (int): Processes of the training that is planned, for the
            batch size in all and the time of an epoch. Defaults to 1.
        from_scratch (bool): Start from random weights, whatever ``init_cfg``
            names. Defaults to False.
        cfg_options (dict, optional): Values of the config by dotted key.

    Returns:
        list[Finding]: The worst first.
    """
    # mmengine would list every parameter as it is initialized.
    if not MMLogger.check_instance_created('check'):
        MMLogger.get_instance('check', log_level='WARNING')
    with tempfile.TemporaryDirectory() as work_dir:
        run = _DryRun()
        with run.part('config'):
            cfg = load_config(
                config,
                work_dir=work_dir,
                data_root=data_root,
                data_format=data_format,
                classes=classes,
                cfg_options=cfg_options)
            run.cfg = cfg
            init_default_scope(cfg.get('default_scope', 'mmengine'))
            run.check_weights(cfg, from_scratch)
            run.check_all(cfg, checkpoint, every_file, num_gpus)
    return sorted(run.findings, key=lambda f: LEVELS.index(f.level))


def _test_repeats_validation(cfg: Config) -> bool:
    """Whether a test repeats the validation."""
    return (cfg.test_dataloader == cfg.get('val_dataloader')
            and cfg.test_evaluator == cfg.get('val_evaluator'))


class _DryRun:
    """Collects findings, part by part."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.cfg: dict[str, Any] = {}

    def add(self, level: str, subject: str, message: str) -> None:
        self.findings.append(Finding(level, subject, ' '.join(message.split())))

    @contextmanager
    def part(self, subject: str) -> Iterator[None]:
        """Turn any error into a finding: a config can break any line of any
        package."""
        try:
            with naming_config_errors(self.cfg):
                yield
        except MMHierError as error:
            self.add('error', subject, str(error))
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = ' '.join(str(error).split())[:300]
            self.add(
                'error', subject, f'{type(error).__name__}: {message} (raised '
                f'in {frame.filename}, line {frame.lineno})')

    def check_weights(self, cfg: Config, from_scratch: bool) -> None:
        """Find pretrained weights; without them, the rest is checked with
        random ones."""
        with self.part('weights'):
            self.add('note', 'weights', find_pretrained(cfg, from_scratch))
            return
        find_pretrained(cfg, from_scratch=True)

    def check_all(self, cfg: Config, checkpoint: str | None, every_file: bool,
                  num_gpus: int) -> None:
        """Check data, model, optimizer and one step of each kind."""
        with self.part('runtime'):
            for warning in check_runtime(cfg):
                self.add('warning', 'runtime', warning)
            check_log_packages(cfg)
        for phase in _PHASES:
            if cfg.get(f'{phase}_dataloader') is not None:
                self.check_phase_data(cfg, phase, every_file)
        model = None
        with self.part('model'):
            model = build_model(cfg)
            init_weights(model)
            model.to(get_device()).train()
            count = sum(p.numel() for p in model.parameters())
            trained = sum(p.numel() for p in model.parameters()
                          if p.requires_grad)
            self.add(
                'note', 'model', f'{count / 1e6:.2f} M parameters, '
                f'{trained / 1e6:.2f} M of them trained')
        if model is None:
            return
        for name in (checkpoint, cfg.get('load_from')):
            if name:
                with self.part('checkpoint'):
                    weights = convert_for_model(
                        model, unwrap_state_dict(read_checkpoint(name)))
                    hook = CheckpointFitHook(complete=name is checkpoint)
                    self.add('note', 'checkpoint',
                             f'{name}: {hook.compare(model, weights)}')
        with self.part('optimizer'):
            self.check_optimizer(cfg, model, num_gpus)
        with self.part('training step'):
            self.check_steps(cfg, model, num_gpus)
        for phase in ('val', 'test'):
            if cfg.get(f'{phase}_dataloader') is not None and not (
                    phase == 'test' and _test_repeats_validation(cfg)):
                with self.part(f'{phase} prediction'):
                    self.check_predictions(cfg, model, phase)

    def check_predictions(self, cfg: Config, model: nn.Module,
                          phase: str) -> None:
        """Predict the first batch of a phase and :func:`other_batches`."""
        subject = f'{phase} prediction'
        loader = Runner.build_dataloader(
            single_process(cfg[f'{phase}_dataloader']))
        step = getattr(model.eval(), f'{phase}_step')
        with torch.no_grad():
            number = len(step(next(iter(loader))))
            for name, indices in other_batches(loader).items():
                with self.part(f'{name} batch of {phase}'):
                    batch = [loader.dataset[i] for i in indices]
                    number += len(step(loader.collate_fn(batch)))
        self.add('note', subject, f'{number} images predicted')

    def check_phase_data(self, cfg: Config, phase: str,
                         every_file: bool) -> None:
        """Check the data of 'train', 'val' or 'test', and count it."""
        subject = f'{phase} data'
        with self.part(subject):
            evaluates = phase != 'train' and not (phase == 'test' and
                                                  _test_repeats_validation(cfg))
            check_data(
                cfg, (phase, ),
                max_masks=None if every_file else 200,
                warn=lambda line: self.add('warning', subject, line),
                keep=evaluates)
            loader = f'{phase}_dataloader'
            whole = None
            for name, settings in iter_datasets(cfg[loader], loader):
                dataset = DATASETS.build(settings)
                if settings is cfg[loader].dataset:
                    whole = dataset
                for level, message in count_images(name, dataset, every_file):
                    self.add(level, subject, message)
            if evaluates:
                for note in dry_evaluate(cfg, phase, dataset=whole):
                    self.add('note', f'{phase} evaluation', note)

    def check_optimizer(self, cfg: Config, model: nn.Module,
                        num_gpus: int) -> None:
        """Check the parameter groups, and the rate against the batch."""
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        groups = wrapper.optimizer.param_groups
        members = [id(p) for group in groups for p in group['params']]
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        if len(members) != len(set(members)):
            self.add(
                'error', 'optimizer', 'some parameters are in the groups '
                'more than once: look at optim_wrapper.paramwise_cfg')
        lacking = len(trained - set(members))
        if lacking:
            self.add(
                'error', 'optimizer', f'{lacking} trained tensors are in '
                'no group, so they would never change')
        exempt = sum(
            len(group['params']) for group in groups
            if not group.get('weight_decay'))
        rates = sorted({group['lr'] for group in groups})
        self.add(
            'note', 'optimizer', f'{type(wrapper.optimizer).__name__}, lr ' +
            ' to '.join(f'{rate:g}' for rate in sorted({rates[0], rates[-1]})) +
            f', {exempt} of {len(members)} tensors without weight decay')
        scaling = cfg.get('auto_scale_lr', {})
        base = scaling.get('base_batch_size')
        accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
        at_once = cfg.train_dataloader.batch_size * num_gpus
        batch = at_once * accumulated
        rate = wrapper.optimizer.defaults.get('lr', rates[-1])
        # mmengine scales by the batch that is loaded at once.
        if base and batch != (at_once if scaling.get('enable') else base):
            wanted = f'{rate * batch / base:g}'
            self.add(
                'warning', 'learning rate', f'{rate:g} is meant for batches '
                f'of {base}, yours hold {batch}: ' +
                (f'train with --auto-scale-lr, which makes it {wanted}'
                 if accumulated == 1 else
                 f'set optim_wrapper.optimizer.lr={wanted} and train '
                 'without --auto-scale-lr, which leaves out '
                 f'accumulative_counts={accumulated}'))

    def check_steps(self, cfg: Config, model: nn.Module, num_gpus: int) -> None:
        """Take a training step in each precision of the device."""
        torch.manual_seed(0)
        loader = Runner.build_dataloader(single_process(cfg.train_dataloader))
        start = time.perf_counter()
        batch = next(iter(loader))
        loading = time.perf_counter() - start
        # On the CPU, not to count as memory of a GPU.
        before = copy.deepcopy({
            k: v.cpu()
            for k, v in model.state_dict().items()
        })
        self.check_other_batches(model, loader, num_gpus)
        for name in precisions(cfg):
            wrapper = build_wrapper(cfg, model, name)
            seconds = self.check_step(name, cfg, model, wrapper, batch)
            if name == 'float32':
                self.estimate_time(cfg, len(loader.dataset), num_gpus, seconds,
                                   loading)
            with torch.no_grad():
                for key, value in model.state_dict().items():
                    value.copy_(before[key])

    def check_other_batches(self, model: nn.Module, loader: Any,
                            num_gpus: int) -> None:
        """Compute loss and gradients of :func:`other_batches`."""
        state = copy.deepcopy({
            k: v.cpu()
            for k, v in model.state_dict().items()
        })
        # SyncBatchNorm needs several values over all processes.
        synchronized = num_gpus > 1 and any('SyncBatchNorm' in type(m).__name__
                                            for m in model.modules())
        for name, indices in other_batches(loader, num_gpus).items():
            with self.part(f'{name} batch'):
                batch = loader.collate_fn([loader.dataset[i] for i in indices])
                try:
                    loss, _ = model.parse_losses(compute_losses(model, batch))
                    loss.backward()
                except ValueError as error:
                    if 'more than 1 value per channel' not in str(error):
                        raise
                    if synchronized:
                        continue
                    raise MMHierError(
                        f'a training batch of {len(indices)} images leaves '
                        'BatchNorm a single value per channel: set '
                        'train_dataloader.drop_last=True, another batch_size, '
                        'or take SyncBN or GroupNorm') from error
                if not loss.isfinite():
                    self.add('error', f'{name} batch', 'the loss is not finite')
        model.zero_grad()
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(state[key])

    def check_step(self, name: str, cfg: Config, model: nn.Module,
                   wrapper: OptimWrapper, batch: Any) -> float:
        """Step on a batch until it is warm; return the seconds of the last
        step."""
        first_loss = None
        for _ in range(_NUM_STEPS[name]):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with wrapper.optim_context(model), collect_saved_bytes(
                [*model.parameters(), *model.buffers()]) as kept:
                losses = compute_losses(model, batch)
            loss, logged = model.parse_losses(losses)
            wrapper.backward(loss)
            bad = [k for k, v in logged.items() if not v.isfinite().all()]
            broken = [
                n for n, p in model.named_parameters()
                if p.grad is not None and not p.grad.isfinite().all()
            ]
            if first_loss is None:
                first_loss = loss.item()
                if name == 'float32':
                    self.check_gradients(cfg, model)
            sound = not bad and not broken
            if sound or (name == 'float16' and not bad):
                wrapper.step()
            wrapper.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            if bad or sound == (name == 'float16'):
                break
        if bad:
            self.add('error', f'{name} step', f'not finite: {", ".join(bad)}')
        elif broken:
            self.add(
                'error', f'{name} step', f'the loss is finite, but not '
                f'the gradients of {len(broken)} tensors, such as '
                f'{broken[0]}')
        else:
            self.add('note', f'{name} step', f'loss {first_loss:.4g}, '
                     f'{seconds:.2f} s')
        if name == 'float32':
            self.estimate_memory(cfg, model, wrapper, sum(kept.values()))
        return seconds

    def check_gradients(self, cfg: Config, model: nn.Module) -> None:
        """Name the parameters that the loss does not reach."""
        trained = [(n, p) for n, p in model.named_parameters()
                   if p.requires_grad]
        unused = [n for n, p in trained if p.grad is None]
        dead = [
            n for n, p in trained if p.grad is not None and not p.grad.any()
        ]
        if unused:
            hidden = cfg.get('find_unused_parameters', False)
            self.add(
                'warning' if hidden else 'error', 'unused parameters',
                f'{len(unused)} tensors get no gradient, such as {unused[0]}: '
                'distributed training would stop at them; leave the layers '
                'out, or set find_unused_parameters=True')
        if trained and len(dead) + len(unused) == len(trained):
            self.add(
                'error', 'gradients', 'all gradients are zero, so nothing '
                'is learned: the loss does not depend on the predictions')
        elif dead:
            self.add(
                'warning', 'dead parameters', f'{len(dead)} tensors had '
                f'only zeros as gradient in this batch, such as '
                f'{dead[0]}')

    def estimate_memory(self, cfg: Config, model: nn.Module,
                        wrapper: OptimWrapper, kept: int) -> None:
        """Note the memory of a float32 step whose forward pass keeps `kept`
        bytes."""
        tensors = list(model.parameters())
        moments = [
            value for state in wrapper.optimizer.state.values()
            for value in state.values() if isinstance(value, torch.Tensor)
        ]
        parts = {
            'weights': count_bytes([*tensors, *model.buffers()]),
            'gradients': count_bytes(p for p in tensors if p.requires_grad),
            'state of the optimizer': count_bytes(moments),
        }
        how = 'counted without the scratch space of kernels'
        if torch.cuda.is_available():
            kept = torch.cuda.max_memory_allocated() - sum(parts.values())
            how = 'measured'
        parts['activations'] = kept
        if any(
                type_name(hook.get('type')).endswith('EMAHook')
                for hook in cfg.get('custom_hooks') or ()):
            parts['moving averages'] = parts['weights']
        self.add(
            'note', 'memory',
            f'{show_size(sum(parts.values()))} at the peak of a '
            f'float32 step of {cfg.train_dataloader.batch_size} images, {how}:'
            + ','.join(f' {k} {show_size(v)}' for k, v in parts.items()))

    def estimate_time(self, cfg: Config, num_images: int, num_gpus: int,
                      seconds: float, loading: float) -> None:
        """Tell the time of an epoch and of the whole training.

        Args:
            cfg (Config): The config.
            num_images (int): Images of the training data.
            num_gpus (int): Processes that share them.
            seconds (float): Time of a step.
            loading (float): Time in which one worker loads a batch.
        """
        loader = cfg.train_dataloader
        batches = math.ceil(num_images / num_gpus) / loader.batch_size
        num_steps = max(
            1, (math.floor if loader.get('drop_last') else math.ceil)(batches))
        schedule = cfg.train_cfg
        total = schedule.get('max_iters') or num_steps * schedule.get(
            'max_epochs', 1)
        workers = max(1, loader.get('num_workers', 0))
        slower = max(seconds, loading / workers)
        device = get_device()
        self.add(
            'note', 'time',
            f'about {show_duration(num_steps * slower)} an epoch '
            f'of {num_images} images, {show_duration(total * slower)} for all '
            f'{total} iterations, on ' +
            (f'one {device}' if num_gpus == 1 else
             f'{num_gpus} of this {device}, which wait for nothing') +
            ', without validation')
        if loading / workers > seconds:
            self.add(
                'warning', 'time', f'loading a batch takes {loading:.2f} s, '
                f'longer than a step: raise train_dataloader.num_workers '
                f'(now {workers})')
