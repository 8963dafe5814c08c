"""Linear layers and convolutions, fast on every CPU."""
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    register_flop_formula,
)
from .bands import uses_whole_maps
from .tracing import is_traced

HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, '_convolution_pointwise'))
# Convolutions of one image of up to this many numbers bypass oneDNN.
SMALLEST_CONVOLUTION = 20480
# Positions up to which oneDNN's linear layer, which lays out its weights at a
# lower cost, is faster than its convolution.
MOST_LINEAR_ROWS = 1024
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = dict(
    silu=F.silu, gelu=F.gelu)
# What oneDNN calls them, and the way to compute them.
ONEDNN_ACTIVATIONS: dict[str | None, tuple[str, str]] = {
    None: ('none', ''),
    'silu': ('swish', ''),
    'gelu': ('gelu', 'none')
}


def suits_onednn(x: Tensor) -> bool:
    """Whether a layer over the channels of x is faster as a convolution.

    It is for float32 on a CPU: oneDNN, which computes convolutions, uses the
    widest instructions of every processor, MKL, which computes products of
    matrices, only those of Intel's.
    """
    return (x.device.type == 'cpu' and x.dtype == torch.float32
            and x.ndim in (3, 4) and HAS_ONEDNN
            and (torch.compiler.is_dynamo_compiling()
                 or not torch.compiler.is_exporting())
            and not torch.is_autocast_enabled('cpu'))


def takes_convolution(x: Tensor) -> bool:
    """Whether torch takes oneDNN for a 1x1 convolution of (..., C), and it
    is faster than a linear layer."""
    return (suits_onednn(x) and not is_traced()
            and (x.ndim == 4 and x.shape[0] > 1
                 or x.numel() > SMALLEST_CONVOLUTION))


def fuses_activations(x: Tensor) -> bool:
    """Whether layers activate what they compute before it leaves the cache.

    They do in inference where :func:`suits_onednn` is true, compiled too.
    """
    return (not torch.is_grad_enabled() and suits_onednn(x)
            and (torch.compiler.is_dynamo_compiling()
                 or not is_traced() and not uses_whole_maps()))


def linear(x: Tensor,
           weight: Tensor,
           bias: Tensor | None = None,
           activation: str | None = None) -> Tensor:
    """activation(x @ weight.T + bias).

    Args:
        x (Tensor): (..., in_features).
        weight (Tensor): (out_features, in_features).
        bias (Tensor, optional): (out_features, ). Defaults to None.
        activation (str, optional): 'silu' or 'gelu'. Defaults to None.

    Returns:
        Tensor: (..., out_features).
    """
    if fuses_activations(x):
        if is_traced():
            return _linear_of_graph(x, weight, bias, activation)
        if x.numel() > MOST_LINEAR_ROWS * x.shape[-1]:
            return over_pixels(
                lambda x: convolve(x, weight[:, :, None, None], bias, activation
                                   ), x)
        name, algorithm = ONEDNN_ACTIVATIONS[activation]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [],
                                                  algorithm)
    if takes_convolution(x):
        x = over_pixels(lambda x: F.conv2d(x, weight[:, :, None, None], bias),
                        x)
    else:
        x = F.linear(x, weight, bias)
    return x if activation is None else ACTIVATIONS[activation](x)


@torch.library.custom_op('mmhier::linear', mutates_args=())
def _linear_of_graph(x: Tensor, weight: Tensor, bias: Tensor | None,
                     activation: str | None) -> Tensor:
    """:func:`linear` in a compiled graph, which would take MKL."""
    return linear(x, weight, bias, activation).contiguous()


@_linear_of_graph.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None,
      activation: str | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def convolve(x: Tensor,
             weight: Tensor,
             bias: Tensor | None = None,
             activation: str | None = None,
             padding: int = 0,
             groups: int = 1) -> Tensor:
    """activation(conv(x)) in one pass.

    Only where :func:`fuses_activations` is true.

    Args:
        x (Tensor): (B, in_channels, H, W).
        weight (Tensor): (out_channels, in_channels / groups, k, k).
        bias (Tensor, optional): (out_channels, ). Defaults to None.
        activation (str, optional): 'silu' or 'gelu'. Defaults to None.
        padding (int): On all sides. Defaults to 0.
        groups (int): Defaults to 1.

    Returns:
        Tensor: (B, out_channels, H', W').
    """
    name, algorithm = ONEDNN_ACTIVATIONS[activation]
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias,
                                                   [padding] * 2, [1] * 2,
                                                   [1] * 2, groups, name, [],
                                                   algorithm)


def _count_convolution(x_shape: list[int], weight_shape: list[int], *args: Any,
                       out_shape: list[int], **kwargs: Any) -> int:
    return conv_flop_count(x_shape, weight_shape, out_shape)


def _count_linear(x_shape: list[int], weight_shape: list[int], *args: Any,
                  **kwargs: Any) -> int:
    return 2 * prod(x_shape) * weight_shape[0]


# Else torch's FlopCounterMode would not see what these compute.
for _operator, _formula in (('_convolution_pointwise', _count_convolution),
                            ('_linear_pointwise', _count_linear)):
    if HAS_ONEDNN and getattr(torch.ops.mkldnn, _operator) not in flop_registry:
        register_flop_formula(getattr(torch.ops.mkldnn, _operator))(_formula)


def over_pixels(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function of (B, C, H, W), which it takes to (B, C', H, W).

    Args:
        function (Callable): Such as a convolution.
        x (Tensor): (B, N, C) or (B, H, W, C).

    Returns:
        Tensor: (B, N, C') or (B, H, W, C').
    """
    # A single long row: oneDNN works along rows.
    rows = x if x.ndim == 4 else x.flatten(0, 1)[None, None]
    out = function(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out if x.ndim == 4 else out[0, 0].unflatten(0, x.shape[:2])


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` computed by :func:`linear`."""

    def forward(self, x: Tensor, then: str | None = None) -> Tensor:
        """(..., in_features) -> (..., out_features), activated if asked
        for."""
        return linear(x, self.weight, self.bias, then)
