"""Boxes of mmdet's detectors in float32 under autocast.

mmdet makes anchors in the dtype of a head's output, rounds RoIs to the dtype
of the feature maps and offsets boxes by class for NMS in the boxes' dtype. In
bfloat16, neighbouring numbers near 1000 are 4 to 8 pixels apart.
"""
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Heads by their names in a detector. A shared_head computes features, and a
# roi_head holds other heads.
_HEAD = re.compile(r'(?:.*\.)?(?!shared_head|roi_head)\w+_head(?:\.\d+)?')
_HALF = (torch.float16, torch.bfloat16)


def keep_geometry_in_float32(model: nn.Module) -> dict[str, RemovableHandle]:
    """Register hooks that keep the geometry of detectors in float32.

    Under autocast, outputs of heads and inputs of RoI extractors become
    float32, so anchors, points, decoded boxes, RoIs and NMS are float32 as
    well; distributions over distances are averaged without autocast. Without
    autocast nothing changes.

    Args:
        model (nn.Module): mmdet's detector, or a model that holds one such as
            a TTA wrapper; others are left alone. Hooks are registered once
            per module, however often this is called.

    Returns:
        dict[str, RemovableHandle]: Handles of the new hooks by the names of
        the modules.
    """
    handles: dict[str, RemovableHandle] = {}
    for name, module, kind in _geometry_modules(model):
        hooks = (*module._forward_hooks.values(),
                 *module._forward_pre_hooks.values())
        if any(hook in _HOOKS for hook in hooks):
            continue
        if kind == 'head':
            handles[name] = module.register_forward_hook(_cast_outputs)
        elif kind == 'roi_extractor':
            handles[name] = module.register_forward_pre_hook(
                _cast_inputs, with_kwargs=True)
        else:
            handles[name] = module.register_forward_hook(_average_again)
    return handles


def _geometry_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Names, modules and kinds: 'head', 'roi_extractor' or 'integral'."""
    # Whoever built a detector has imported mmdet.
    if 'mmdet.models' not in sys.modules:
        return
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.dense_heads.gfl_head import Integral
    from mmdet.models.detectors.base import BaseDetector
    from mmdet.models.roi_heads.roi_extractors import base_roi_extractor
    if not any(isinstance(module, BaseDetector) for module in model.modules()):
        return
    for name, module in model.named_modules():
        if isinstance(module, base_roi_extractor.BaseRoIExtractor):
            yield name, module, 'roi_extractor'
        elif isinstance(module, Integral):
            yield name, module, 'integral'
        elif isinstance(
                module,
                BaseDenseHead) or (_HEAD.fullmatch(name)
                                   and not isinstance(module, nn.ModuleList)):
            yield name, module, 'head'


def _to_float32(value: Any) -> Any:
    """Half-precision tensors of a nested value that autocast made."""
    if isinstance(value, Tensor):
        is_cast = value.dtype in _HALF and torch.is_autocast_enabled(
            value.device.type)
        return value.float() if is_cast else value
    if isinstance(value, dict):
        return type(value)((k, _to_float32(v)) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(_to_float32(item) for item in value)
    return value


def _cast_outputs(module: nn.Module, args: tuple, outs: Any) -> Any:
    return _to_float32(outs)


def _cast_inputs(module: nn.Module, args: tuple,
                 kwargs: dict) -> tuple[tuple, dict]:
    return _to_float32(args), _to_float32(kwargs)


def _average_again(module: nn.Module, args: tuple[Tensor],
                   outs: Tensor) -> Tensor | None:
    """Repeat a matrix product that autocast did in half precision."""
    if outs.dtype not in _HALF:
        return None
    with torch.autocast(outs.device.type, enabled=False):
        return module.forward(args[0].float())


_HOOKS = (_cast_outputs, _cast_inputs, _average_again)
