"""Batches and optimizer wrappers of the trial steps of a dry run."""
import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from PIL import Image
from torch import nn
from mmhier.datasets.mask_checks import spread_evenly
from mmhier.engine.amp import SWITCHABLE_WRAPPERS, use_amp
from mmhier.engine.config import resolve_type

_GIB = 1024**3
_MAX_HEADERS = 1000


def compute_losses(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Losses of a batch, preprocessed as in training."""
    data = model.data_preprocessor(batch, True)
    if isinstance(data, dict):
        return model(**data, mode='loss')
    return model(*data, mode='loss')


def other_batches(loader: Any, num_processes: int = 1) -> dict[str, list[int]]:
    """Indices of the batches that differ most from the first.

    Args:
        loader (DataLoader): Without ``get_data_info`` in its dataset, only
            the last batch is returned.
        num_processes (int): Processes that share the images. Defaults to 1.

    Returns:
        dict[str, list[int]]: By name: 'last' of an epoch, if it is smaller
        than the others; 'smallest' and 'largest' by the area of the images;
        'mixed-size', the smallest image and the largest ones.
    """
    total = len(loader.dataset)
    number = -(-total // num_processes)
    size = getattr(loader.batch_sampler, 'batch_size', loader.batch_size) or 1
    batches = {}
    is_endless = type(loader.sampler).__name__ == 'InfiniteSampler'
    if number % size and not (loader.drop_last or is_endless or getattr(
            loader.batch_sampler, 'drop_last', False)):
        batches['last'] = list(range(total - number % size, total))
    areas = _image_areas(loader.dataset)
    order = sorted(areas, key=areas.__getitem__)
    if not order or areas[order[0]] == areas[order[-1]]:
        return batches
    batches['smallest'] = order[:size]
    if len(order) > size:
        batches['largest'] = order[-size:]
    if size > 1:
        batches['mixed-size'] = [order[0], *order[1 - size:]]
    return batches


def _image_areas(dataset: Any) -> dict[int, float]:
    """Areas of images by index.

    Of all images if the dataset states sizes, else of up to 1000, whose
    headers are read.
    """
    if not hasattr(dataset, 'get_data_info'):
        return {}
    indices: Sequence[int] = range(len(dataset))
    first = dataset.get_data_info(0) if indices else {}
    if not (first.get('height') and first.get('width')):
        indices = spread_evenly(indices, _MAX_HEADERS)
    areas = {}
    for i in indices:
        info = dataset.get_data_info(i)
        width, height = info.get('width'), info.get('height')
        if not (width and height):
            try:
                with Image.open(info['img_path']) as image:
                    width, height = image.size
            except (KeyError, OSError, SyntaxError, ValueError, AttributeError,
                    Image.DecompressionBombError):
                continue  # count_images reports it
        areas[i] = width * height
    return areas


def precisions(cfg: Config) -> list[str]:
    """Precisions to try on the device.

    Only float32 for optimizer wrappers that are not mmengine's, since they may
    be bound to one precision.
    """
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
