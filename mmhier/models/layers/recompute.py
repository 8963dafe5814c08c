"""Recompute activations in the backward pass instead of storing them.

Whole blocks on request. The input of a layer always: the gradient of the
layer's weights needs it, and where it is the output of an activation or a
norm, which cost next to nothing, only the input of these is kept.
"""
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from .cpu.onednn import as_image, from_image, takes_convolution
from .dynamic import is_traced


def recompute_block(block: nn.Module, *args: Any) -> Any:
    """``block(*args)``, computed again in the backward pass.

    BatchNorm statistics are updated by the first pass only.
    """
    return checkpoint(
        block,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _kept_statistics(block)))


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Restore the BatchNorm statistics of `module` on leaving."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    buffers = [b for norm in norms for b in norm.buffers()]
    kept = [b.clone() for b in buffers]
    try:
        yield
    finally:  # recomputation stops early by an exception
        for buffer, value in zip(buffers, kept):
            buffer.copy_(value)


def records_graph(*tensors: Tensor) -> bool:
    """Whether autograd records operations on these tensors.

    False in a compiled graph: the compiler chooses the tensors to keep.
    """
    return (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            and not is_traced())


def recompute_linear(before: nn.Module, x: Tensor, weight: Tensor,
                     bias: Tensor | None) -> Tensor:
    """before(x) @ weight.T + bias.

    Args:
        before (nn.Module): An activation, or a norm over the last dimension.
        x (Tensor): (..., in_features).
        weight (Tensor): (out_features, in_features).
        bias (Tensor, optional): (out_features, ).

    Returns:
        Tensor: (..., out_features).
    """
    if takes_convolution(x):
        weight = weight[:, :, None, None]
    return _apply(before, x, weight, bias, (0, 0), (1, 1), 1)


def recompute_conv(before: nn.Module, x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(before(x)) for a convolution of stride 1.

    Args:
        before (nn.Module): An activation, or a norm over the last dimension.
        x (Tensor): (B, H, W, in_channels).
        conv (nn.Conv2d): The convolution.

    Returns:
        Tensor: (B, H', W', out_channels).
    """
    return _apply(before, x, conv.weight, conv.bias, conv.padding,
                  conv.dilation, conv.groups)


def _apply(before: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None,
           padding: tuple[int, ...], dilation: tuple[int, ...],
           groups: int) -> Tensor:
    device = x.device.type
    if (torch.amp.is_autocast_available(device)
            and torch.is_autocast_enabled(device)
            and weight.dtype == torch.float32):
        # Autocast knows nothing of autograd functions.
        dtype = torch.get_autocast_dtype(device)
        weight = weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _RecomputedInput.apply(before, x, weight, bias, padding, dilation,
                                  groups, *before.parameters())


def _current_autocast(device: str) -> AbstractContextManager:
    """Context that restores today's autocast state of a device."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device),
                          torch.is_autocast_enabled(device))


class _RecomputedInput(torch.autograd.Function):
    """A weight of four dimensions is a convolution's, one of two a linear
    layer's."""

    @staticmethod
    def forward(ctx, before, x, weight, bias, padding, dilation, groups,
                *parameters):
        ctx.save_for_backward(x, weight)
        ctx.settings = (before, parameters, padding, dilation, groups, bias
                        is not None)
        ctx.autocast = _current_autocast(x.device.type)
        y = before(x).to(weight.dtype)
        if weight.ndim == 2:
            return F.linear(y, weight, bias)
        out = F.conv2d(
            as_image(y),
            weight,
            bias,
            padding=padding,
            dilation=dilation,
            groups=groups)
        return from_image(out, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        before, parameters, *_ = ctx.settings
        needs_x, *needs = (
            ctx.needs_input_grad[i]
            for i in (1, *range(7, 7 + len(parameters))))
        leaf = x.detach().requires_grad_(needs_x)
        with torch.enable_grad(), ctx.autocast:
            y = before(leaf).to(weight.dtype)
        grad_y, grad_weight, grad_bias = _backward_of_layer(
            ctx, grad, y, weight)
        wanted = [leaf] * needs_x + [
            p for p, needed in zip(parameters, needs) if needed
        ]
        grads: tuple = ()
        if wanted:
            # Frees the map y before its gradient is computed.
            edge = get_gradient_edge(y)
            del y
            grads = torch.autograd.grad(edge, wanted, grad_y)
        by_input = iter(grads)
        grad_x, *rest = (
            next(by_input) if needed else None for needed in (needs_x, *needs))
        return (None, grad_x, grad_weight, grad_bias, None, None, None, *rest)


def _backward_of_layer(ctx, grad, y, weight):
    """Gradients of the layer's input y, its weight and bias."""
    *_, padding, dilation, groups, has_bias = ctx.settings
    needs = (y.requires_grad, ctx.needs_input_grad[2], ctx.needs_input_grad[3])
    if weight.ndim == 4:
        grad_y, *grads = torch.ops.aten.convolution_backward(
            as_image(grad), as_image(y.detach()), weight,
            [len(weight)] if has_bias else None, (1, 1), padding, dilation,
            False, (0, 0), groups, needs)
        return None if grad_y is None else from_image(grad_y, y), *grads
    rows = grad.flatten(0, -2)
    return (grad @ weight if needs[0] else None,
            rows.mT @ y.detach().flatten(0, -2) if needs[1] else None,
            rows.sum(0) if needs[2] else None)
