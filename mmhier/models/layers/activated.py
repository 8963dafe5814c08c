"""An activation and the layer behind it, which store one map instead of two.

The gradient of a layer's weights needs the activated map, that of the
activation the map before it. Only the latter is kept: activating it once more
in the backward pass costs next to nothing.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from .linear import ACTIVATIONS, linear, over_pixels, takes_convolution
from .tracing import is_traced

aten = torch.ops.aten
GRADIENTS: dict[str, Callable] = dict(
    silu=aten.silu_backward.default, gelu=aten.gelu_backward.default)


class ActivatedLinear(nn.Linear):
    """Linear layer over the last dimension of an activated map.

    Args:
        in_features (int): Channels in.
        out_features (int): Channels out.
        activation (str): 'silu' or 'gelu'.
    """

    def __init__(self, in_features: int, out_features: int, activation: str):
        super().__init__(in_features, out_features)
        self.activation = activation

    def forward(self, x: Tensor, activated: bool = False) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if activated:
            return linear(x, self.weight, self.bias)
        return activated_linear(x, self.weight, self.bias, self.activation)


def activated_conv(x: Tensor, conv: nn.Conv2d, activation: str) -> Tensor:
    """conv(activation(x)), for a convolution of stride and dilation 1.

    Args:
        x (Tensor): (B, in_channels, H, W).
        conv (nn.Conv2d): Whose weights and settings to take.
        activation (str): 'silu' or 'gelu'.

    Returns:
        Tensor: (B, out_channels, H', W').
    """
    weight, bias = _in_dtype_of(x, conv.weight, conv.bias)
    if not _stores(x, weight):
        return F.conv2d(
            ACTIVATIONS[activation](x),
            weight,
            bias,
            padding=conv.padding,
            groups=conv.groups)
    return _ActivatedConv.apply(x, weight, bias, activation, conv.padding,
                                conv.groups)


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None,
                     activation: str) -> Tensor:
    """activation(x) @ weight.T + bias.

    Args:
        x (Tensor): (..., in_features).
        weight (Tensor): (out_features, in_features).
        bias (Tensor, optional): (out_features, ).
        activation (str): 'silu' or 'gelu'.

    Returns:
        Tensor: (..., out_features).
    """
    weight, bias = _in_dtype_of(x, weight, bias)
    if not _stores(x, weight):
        return linear(ACTIVATIONS[activation](x), weight, bias)
    if not takes_convolution(x):
        return _ActivatedLinear.apply(x, weight, bias, activation)
    return over_pixels(
        lambda x: _ActivatedConv.apply(x, weight[:, :, None, None], bias,
                                       activation, (0, 0), 1), x)


def _in_dtype_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple:
    """What autocast would do, of which autograd functions know nothing."""
    if weight.dtype != x.dtype and torch.is_autocast_enabled(x.device.type):
        weight = weight.to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
    return weight, bias


def _stores(x: Tensor, weight: Tensor) -> bool:
    """Whether a graph is recorded; a compiler decides by itself what to keep.
    """
    return (torch.is_grad_enabled()
            and (x.requires_grad or weight.requires_grad) and not is_traced())


class _ActivatedConv(torch.autograd.Function):
    """Weight, bias and settings are those of the convolution."""

    @staticmethod
    def forward(ctx, x, weight, bias, activation, padding, groups):
        ctx.save_for_backward(x, weight)
        ctx.settings = activation, padding, groups, bias is not None
        return F.conv2d(
            ACTIVATIONS[activation](x),
            weight,
            bias,
            padding=padding,
            groups=groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        activation, padding, groups, has_bias = ctx.settings
        forward, backward = ACTIVATIONS[activation], GRADIENTS[activation]
        grad_x, grad_weight, grad_bias = aten.convolution_backward(
            grad, forward(x), weight, [len(weight)] if has_bias else None,
            (1, 1), padding, (1, 1), False, (0, 0), groups,
            ctx.needs_input_grad[:3])
        if grad_x is not None:
            grad_x = backward(grad_x, x)
        return grad_x, grad_weight, grad_bias, None, None, None


class _ActivatedLinear(torch.autograd.Function):
    """Arguments as in activated_linear."""

    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        ctx.save_for_backward(x, weight)
        ctx.activation = activation
        return F.linear(ACTIVATIONS[activation](x), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        forward = ACTIVATIONS[ctx.activation]
        backward = GRADIENTS[ctx.activation]
        rows = grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = backward(grad @ weight, x)
        if ctx.needs_input_grad[1]:
            grad_weight = rows.mT @ forward(x).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        return grad_x, grad_weight, grad_bias, None
