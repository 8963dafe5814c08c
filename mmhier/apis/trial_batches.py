"""Batches and optimizer wrappers of the trial steps of a dry run."""
import copy
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from mmhier.engine.amp import SWITCHABLE_WRAPPERS, use_amp
from mmhier.engine.config import resolve_type

_GIB = 1024**3


def compute_losses(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Losses of a batch, preprocessed as in training."""
    data = model.data_preprocessor(batch, True)
    if isinstance(data, dict):
        return model(**data, mode='loss')
    return model(*data, mode='loss')


def other_batches(loader: Any) -> dict[str, list[int]]:
    """Indices of batches by name: the last of an epoch, where it is smaller
    than others, and those of images of extreme sizes."""
    number = len(loader.dataset)
    size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size) or 1
    batches = {}
    is_endless = type(loader.sampler).__name__ == 'InfiniteSampler'
    if number % size and not (loader.drop_last or is_endless or getattr(
            loader.batch_sampler, 'drop_last', False)):
        batches['last'] = list(range(number - number % size, number))
    if not hasattr(loader.dataset, 'get_data_info'):
        return batches
    areas = []
    for i in range(number):
        info = loader.dataset.get_data_info(i)
        if not (info.get('height') and info.get('width')):
            return batches
        areas.append(info['height'] * info['width'])
    order = sorted(range(number), key=areas.__getitem__)
    if areas[order[0]] != areas[order[-1]]:
        batches['smallest'] = order[:size]
        batches['largest'] = order[-size:]
        batches['mixed-size'] = [order[0], *order[-(size - 1):]][:size]
    return batches


def precisions(cfg: Config) -> list[str]:
    """Those of the device; float32 alone where the optimizer's wrapper is not
    mmengine's and may be bound to one."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if resolve_type(kind, OPTIM_WRAPPERS) not in SWITCHABLE_WRAPPERS:
        return ['float32']
    more = ['float16'] if torch.cuda.is_available() else []
    return ['float32', 'bfloat16', *more]


def build_wrapper(cfg: Config, model: nn.Module, name: str) -> OptimWrapper:
    """The config's optimizer wrapper in a precision, for a step at a time."""
    settings = copy.deepcopy(cfg.optim_wrapper)
    settings['accumulative_counts'] = 1
    changed = Config(dict(optim_wrapper=settings))
    if name != 'float32':
        use_amp(changed, name)
    elif resolve_type(settings.get('type'),
                      OPTIM_WRAPPERS) in SWITCHABLE_WRAPPERS:
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            changed.optim_wrapper.pop(key, None)
        changed.optim_wrapper.type = 'OptimWrapper'
    return build_optim_wrapper(model, changed.optim_wrapper)


def count_bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def show_size(number: float) -> str:
    """Bytes in the unit that suits them."""
    if number < _GIB:
        return f'{number / 1024**2:.1f} MiB'
    return f'{number / _GIB:.1f} GiB'


def single_process(dataloader: dict) -> dict:
    """Settings of a dataloader without worker processes."""
    settings = dict(dataloader, num_workers=0, persistent_workers=False)
    settings.pop('prefetch_factor', None)
    return settings


def show_duration(seconds: float) -> str:
    """Time in the unit that suits it."""
    if seconds < 120:
        return f'{seconds:.0f} s'
    if seconds < 7200:
        return f'{seconds / 60:.0f} min'
    return f'{seconds / 3600:.1f} h'
