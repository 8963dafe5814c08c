"""Checks of loops, optimizer, schedules and hooks before a long run."""
import re
from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    HOOKS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    Registry,
    init_default_scope,
)
from mmhier.errors import MMHierError
from mmhier.files import make_writable
from .config import resolve_type, type_name
from .config_errors import naming_config_errors

# Packages that report mistakes of a config by assertions and other errors.
_UPSTREAM = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'mmhier',
             'torch')
# Samplers and batch samplers of mmengine and mmdet that never end.
_ENDLESS = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')
# Hooks whose constructors need nothing but their arguments.
_PLAIN_HOOKS = ('CheckpointHook', 'EMAHook', 'EarlyStoppingHook', 'LoggerHook')


def build_named(key: str, settings: dict, registry: Registry,
                **arguments: Any) -> Any:
    """Build a part of a config; name it in errors.

    Errors in constructors of OpenMMLab and torch are mistakes of the config.
    Those of other packages are bugs and propagate.

    Args:
        key (str): Dotted key of the part, for the message.
        settings (dict): The part, with its ``type``.
        registry (Registry): mmengine's registry of its kind.
        **arguments: Further arguments of the constructor.

    Returns:
        Any: The built object.

    Raises:
        MMHierError: Names the key, the type and the reason.
    """
    kind = resolve_type(settings.get('type'), registry)
    package = getattr(kind, '__module__', '').partition('.')[0]
    try:
        return registry.build(dict(settings), default_args=arguments)
    except MMHierError:
        raise
    except (AssertionError, ImportError, KeyError, OSError, RuntimeError,
            TypeError, ValueError) as error:
        # naming_config_errors explains types and arguments that do not exist.
        explained = isinstance(error, (KeyError, TypeError)) and re.search(
            'argument|is not in the', str(error))
        if package not in _UPSTREAM or explained:
            raise
        reason = ' '.join(str(error).split()) or 'an assertion failed'
        raise MMHierError(f'{key}: {type_name(settings["type"])} cannot be '
                          f'built: {reason}') from error


def check_runtime(cfg: Config) -> list[str]:
    """Check loops, optimizer, schedule and hooks of a training.

    Args:
        cfg (Config): Made by :func:`mmhier.apis.load_config`; unchanged.

    Returns:
        list[str]: Warnings.

    Raises:
        MMHierError: Names the key and the mistake.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    seed = (cfg.get('randomness') or {}).get('seed')
    if not isinstance(seed, int | None):
        raise MMHierError(f'randomness.seed={seed!r}: expected a whole number')
    _check_loops(cfg)
    _check_samplers(cfg)
    warnings = []
    with naming_config_errors(cfg):
        _check_optimizer(cfg.get('optim_wrapper') or {})
        for key, scheduler in _iter_schedulers(cfg):
            warnings += _check_scheduler(key, scheduler, cfg)
        for key, hook in iter_hooks(cfg):
            kind = resolve_type(hook.get('type'), HOOKS)
            if getattr(kind, '__name__', '') in _PLAIN_HOOKS:
                build_named(key, hook, HOOKS)
            folder = hook.get('out_dir')
            if isinstance(folder, str) and '://' not in folder:
                make_writable(f'{key}.out_dir', folder)
            begin = hook.get('begin_epoch') or 0
            most = (cfg.get('train_cfg') or {}).get('max_epochs')
            if most is not None and begin > most:
                raise MMHierError(f'{key}.begin_epoch={begin} is after the '
                                  f'last epoch, train_cfg.max_epochs={most}')
    return warnings


def _check_optimizer(wrapper: dict) -> None:
    """Build an optimizer and its wrapper for a parameter of their own."""
    settings = wrapper.get('optimizer')
    if not isinstance(settings, dict) or not isinstance(
            resolve_type(settings.get('type'), OPTIMIZERS), type):
        return
    optimizer = build_named(
        'optim_wrapper.optimizer',
        settings,
        OPTIMIZERS,
        params=[torch.nn.Parameter(torch.zeros(()))])
    arguments = {
        k: wrapper[k]
        for k in ('accumulative_counts', 'clip_grad') if k in wrapper
    }
    built = build_named(
        'optim_wrapper',
        dict(arguments, type='OptimWrapper'),
        OPTIM_WRAPPERS,
        optimizer=optimizer)
    if built.clip_grad_kwargs:
        try:
            signature(built.clip_func).bind(None, **built.clip_grad_kwargs)
        except TypeError as error:
            raise MMHierError(f'optim_wrapper.clip_grad={wrapper["clip_grad"]}'
                              f': {error}') from error


def _check_loops(cfg: Config) -> None:
    """Check lengths of loops, and that no part of a loop is missing."""
    train_cfg = cfg.get('train_cfg') or {}
    for key in ('max_epochs', 'max_iters', 'val_interval', 'val_begin'):
        value = train_cfg.get(key)
        if value is not None and (not isinstance(value, int | float)
                                  or value < 1 or value % 1 != 0):
            raise MMHierError(f'train_cfg.{key}={value!r}: expected a whole '
                              'number from 1')
    for phase in ('val', 'test'):
        parts = [
            f'{phase}_{part}' for part in ('dataloader', 'cfg', 'evaluator')
        ]
        absent = [part for part in parts if cfg.get(part) is None]
        if absent and len(absent) < len(parts):
            raise MMHierError(f'{", ".join(absent)} is missing: state all of '
                              f'{", ".join(parts)}, or set all to None')


def _check_samplers(cfg: Config) -> None:
    """Check that epochs end: those of validation, and of training by epochs."""
    train_cfg = cfg.get('train_cfg') or {}
    for phase in ('train', 'val', 'test'):
        if phase == 'train' and train_cfg.get('max_epochs') is None:
            continue
        loader = cfg.get(f'{phase}_dataloader')
        for key in ('sampler', 'batch_sampler'):
            sampler = loader.get(key) if isinstance(loader, dict) else None
            if not isinstance(sampler, dict):
                continue
            kind = resolve_type(sampler.get('type'), DATA_SAMPLERS)
            if any(
                    c.__name__ in _ENDLESS
                    for c in getattr(kind, '__mro__', ())):
                other = (', or count iterations by train_cfg.max_iters'
                         if phase == 'train' else '')
                raise MMHierError(
                    f'{phase}_dataloader.{key}: {kind.__name__} never ends, '
                    f'nor would the first epoch: set DefaultSampler{other}')


def _check_scheduler(key: str, scheduler: dict, cfg: Config) -> list[str]:
    """Build a scheduler for an optimizer of its own; return warnings."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))],
                                lr=0.1,
                                momentum=0.9)
    settings = dict(scheduler)
    by_iteration = settings.pop('convert_to_iter_based', False)
    train_cfg = cfg.get('train_cfg') or {}
    by_epoch = settings.get('by_epoch', True)
    last = train_cfg.get('max_epochs' if by_epoch else 'max_iters')
    # The default of mmengine's runner.
    if last is not None and not by_iteration:
        settings.setdefault('end', last)
    built = build_named(key, settings, PARAM_SCHEDULERS, optimizer=optimizer)
    max_iters = train_cfg.get('max_iters')
    # Those that follow a metric step after each validation.
    if (max_iters is not None and by_epoch and not by_iteration
            and not getattr(built, 'need_val_args', False)):
        return [
            f'{key} counts epochs, but the loop counts iterations, '
            f'train_cfg.max_iters={max_iters}, so it never steps: set '
            f'{key}.by_epoch=False, and its numbers in iterations'
        ]
    return []


def _iter_schedulers(cfg: Config) -> Iterator[tuple[str, dict]]:
    schedulers = cfg.get('param_scheduler') or ()
    if isinstance(schedulers, dict):
        schedulers = [schedulers] if 'type' in schedulers else ()
    for i, scheduler in enumerate(schedulers):
        if isinstance(scheduler, dict):
            yield f'param_scheduler.{i}', scheduler


def iter_hooks(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Dotted keys and settings of the hooks of a config.

    Args:
        cfg (Config): May have none.
    """
    hooks = cfg.get('default_hooks') or {}
    custom = cfg.get('custom_hooks') or ()
    for key, hook in [
            *((f'default_hooks.{k}', v) for k, v in hooks.items()),
            *((f'custom_hooks.{i}', v) for i, v in enumerate(custom)),
    ]:
        if isinstance(hook, dict):
            yield key, hook
