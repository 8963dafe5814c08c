"""Cast the weights of a block in one call under autocast."""
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from ..dilated_depthwise import DilatedDepthwiseConv
from ..dynamic import is_traced
from ..linear import Conv, DepthwiseConv, Linear, PointwiseConv
from ..sequence import is_plain

# Layers that autocast runs in half precision, weights and biases.
LAYERS = (Linear, PointwiseConv, DepthwiseConv, Conv, DilatedDepthwiseConv,
          nn.Conv2d)


def call_block(block: nn.Module, *args: Any) -> Any:
    """Call a block; under autocast on a GPU by :func:`call_with_casts`.

    Args:
        block (nn.Module): Any module.
        *args: Its arguments, a tensor first.
    """
    device = args[0].device.type
    if (device == 'cpu' or is_traced()
            or not torch.amp.is_autocast_available(device)
            or not torch.is_autocast_enabled(device)):
        return block(*args)
    return call_with_casts(block, torch.get_autocast_dtype(device), *args)


def call_with_casts(block: nn.Module, dtype: torch.dtype, *args: Any) -> Any:
    """Call a block with its weights cast together.

    Autocast launches one kernel per weight, and another per gradient.

    Args:
        block (nn.Module): Any module. Plain layers that autocast runs in half
            precision get cast weights during the call.
        dtype (torch.dtype): Of autocast.
        *args: Arguments of the block.
    """
    modules = list(block.modules())
    # FSDP gathers weights only during the call.
    if any('_fsdp_wrapped_module' in m._modules for m in modules):
        return block(*args)
    places = [(m._parameters, name) for m in modules
              if type(m) in LAYERS and is_plain(m)
              for name, p in m._parameters.items()
              if p is not None and p.dtype == torch.float32]
    weights = [parameters[name] for parameters, name in places]
    if not weights or len(set(weights)) < len(weights):
        return block(*args)
    casts = _Cast.apply(dtype, *weights)
    try:
        for (parameters, name), cast in zip(places, casts):
            parameters[name] = cast
        return block(*args)
    finally:
        for (parameters, name), weight in zip(places, weights):
            parameters[name] = weight


class _Cast(torch.autograd.Function):
    """Cast tensors to a dtype, and their gradients back."""

    @staticmethod
    def forward(ctx, dtype, *tensors):
        casts = [torch.empty_like(t, dtype=dtype) for t in tensors]
        torch._foreach_copy_(casts, tensors)
        ctx.dtypes = [t.dtype for t in tensors]
        ctx.set_materialize_grads(False)
        return tuple(casts)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        wanted = [i for i, grad in enumerate(grads) if grad is not None]
        casts = list(grads)
        for i in wanted:
            casts[i] = torch.empty_like(grads[i], dtype=ctx.dtypes[i])
        torch._foreach_copy_([casts[i] for i in wanted],
                             [grads[i] for i in wanted])
        return None, *casts
