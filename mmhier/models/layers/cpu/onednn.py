"""Linear layers and convolutions by oneDNN, with a fused activation.

oneDNN, which computes torch's convolutions, uses the widest instructions of
every processor; MKL, which computes its matrix products, only those of
Intel's. So linear layers of float32 run as 1x1 convolutions.
"""
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
from ..dynamic import is_traced

# The private operators of torch that this file calls, as of torch 2.7 to 2.11.
SCHEMAS = dict(
    _linear_pointwise='mkldnn::_linear_pointwise(Tensor X, Tensor W, '
    'Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y',
    _convolution_pointwise='mkldnn::_convolution_pointwise(Tensor X, '
    'Tensor W, Tensor? B, int[] padding, int[] stride, int[] dilation, '
    'int groups, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y')
HAS_ONEDNN = torch.backends.mkldnn.is_available()


def has_operators(schemas: dict[str, str]) -> bool:
    """Whether torch has oneDNN operators of these schemas."""
    return HAS_ONEDNN and all(
        hasattr(torch.ops.mkldnn, name)
        and str(getattr(torch.ops.mkldnn, name).default._schema) == schema
        for name, schema in schemas.items())


HAS_POINTWISE = has_operators(SCHEMAS)
HAS_BFLOAT16 = HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
# Convolutions of one image of up to this many numbers bypass oneDNN.
SMALLEST_CONVOLUTION = 20480
# Positions up to which oneDNN's linear layer, which lays out its weights at a
# lower cost, is faster than its convolution.
MOST_LINEAR_ROWS = 1024


def takes_onednn(x: Tensor) -> bool:
    """Whether oneDNN has layers over the channels of x."""
    return (HAS_ONEDNN and x.device.type == 'cpu' and x.ndim in (3, 4)
            and (torch.compiler.is_dynamo_compiling()
                 or not torch.compiler.is_exporting()))


def layer_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which a layer computes x, on a CPU."""
    if torch.is_autocast_enabled('cpu'):
        return torch.get_autocast_dtype('cpu')
    return x.dtype


def takes_convolution(x: Tensor) -> bool:
    """Whether a linear layer over (..., C) is faster as a convolution, which
    torch then computes by oneDNN."""
    return (takes_onednn(x) and not is_traced()
            and layer_dtype(x) == torch.float32
            and (x.ndim == 4 and x.shape[0] > 1
                 or x.numel() > SMALLEST_CONVOLUTION))


def fuses_activations(x: Tensor) -> bool:
    """Whether activations are fused into the preceding layer.

    They are in inference; in float32 in compiled graphs too.
    """
    if not HAS_POINTWISE or torch.is_grad_enabled() or not takes_onednn(x):
        return False
    dtype = layer_dtype(x)
    if is_traced():
        return torch.compiler.is_dynamo_compiling() and dtype == torch.float32
    return dtype == torch.float32 or (HAS_BFLOAT16 and dtype == torch.bfloat16)


def onednn_activation(layer: nn.Module | None) -> tuple[str, str]:
    """Name of an activation and the algorithm for it, as oneDNN's operators
    take them."""
    if isinstance(layer, nn.GELU):
        return 'gelu', layer.approximate
    return ('none', '') if layer is None else ('swish', '')


def linear(x: Tensor,
           weight: Tensor,
           bias: Tensor | None = None,
           activation: nn.Module | None = None) -> Tensor:
    """activation(x @ weight.T + bias).

    Args:
        x (Tensor): (..., in_features).
        weight (Tensor): (out_features, in_features).
        bias (Tensor, optional): (out_features, ). Defaults to None.
        activation (nn.Module, optional): nn.SiLU or nn.GELU.
            Defaults to None.

    Returns:
        Tensor: (..., out_features).
    """
    if fuses_activations(x):
        name, algorithm = onednn_activation(activation)
        if is_traced():
            return _linear_of_graph(x, weight, bias, name, algorithm)
        return _fused_linear(x, weight, bias, name, algorithm)
    if takes_convolution(x):
        out = F.conv2d(as_image(x), weight[:, :, None, None], bias)
        x = from_image(out, x)
    else:
        x = F.linear(x, weight, bias)
    return x if activation is None else activation(x)


def _fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, name: str,
                  algorithm: str) -> Tensor:
    x, weight, bias = _cast(x, weight, bias)
    if x.numel() <= MOST_LINEAR_ROWS * x.shape[-1]:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [],
                                                  algorithm)
    out = torch.ops.mkldnn._convolution_pointwise(
        as_image(x), weight[:, :, None, None], bias, [0, 0], [1, 1], [1, 1], 1,
        name, [], algorithm)
    return from_image(out, x)


def _cast(x: Tensor, weight: Tensor,
          bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast, which knows nothing of oneDNN's operators, would."""
    dtype = layer_dtype(x)
    return (x.to(dtype), weight.to(dtype),
            None if bias is None else bias.to(dtype))


@torch.library.custom_op('mmhier::linear', mutates_args=())
def _linear_of_graph(x: Tensor, weight: Tensor, bias: Tensor | None, name: str,
                     algorithm: str) -> Tensor:
    """:func:`linear` in a compiled graph, which would take MKL."""
    return _fused_linear(x, weight, bias, name, algorithm).contiguous()


@_linear_of_graph.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, name: str,
      algorithm: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def convolve(x: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None,
             activation: nn.Module | None) -> Tensor:
    """activation(conv(x)) in one pass.

    Only where :func:`fuses_activations` is true.

    Args:
        x (Tensor): (B, in_channels, H, W).
        conv (nn.Conv2d): Gives stride, padding, dilation and groups.
        weight (Tensor): (out_channels, in_channels / groups, k, k).
        bias (Tensor, optional): (out_channels, ).
        activation (nn.Module, optional): nn.SiLU or nn.GELU.

    Returns:
        Tensor: (B, out_channels, H', W').
    """
    name, algorithm = onednn_activation(activation)
    x, weight, bias = _cast(x, weight, bias)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias,
                                                   conv.padding, conv.stride,
                                                   conv.dilation, conv.groups,
                                                   name, [], algorithm)


def as_image(x: Tensor) -> Tensor:
    """(B, N, C) or (B, H, W, C) -> (B', C, H', W') for a convolution."""
    # A single long row: oneDNN works along rows.
    x = x if x.ndim == 4 else x.flatten(0, 1)[None, None]
    return x.permute(0, 3, 1, 2)


def from_image(out: Tensor, x: Tensor) -> Tensor:
    """Inverse of :func:`as_image`, for a map of the positions of x."""
    out = out.permute(0, 2, 3, 1)
    return out if x.ndim == 4 else out[0, 0].unflatten(0, x.shape[:2])


def _count_convolution(x_shape: list[int], weight_shape: list[int], *args: Any,
                       out_shape: list[int], **kwargs: Any) -> int:
    return conv_flop_count(x_shape, weight_shape, out_shape)


def _count_linear(x_shape: list[int], weight_shape: list[int], *args: Any,
                  **kwargs: Any) -> int:
    return 2 * prod(x_shape) * weight_shape[0]


# Otherwise torch's FlopCounterMode misses these operators.
if HAS_POINTWISE:
    for _operator, _formula in ((torch.ops.mkldnn._convolution_pointwise,
                                 _count_convolution),
                                (torch.ops.mkldnn._linear_pointwise,
                                 _count_linear)):
        if _operator not in flop_registry:
            register_flop_formula(_operator)(_formula)
