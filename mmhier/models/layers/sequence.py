"""Run layers one after the other, in the form that suits the device.

The first line of :func:`sequence` and :func:`by_rows` defines the result. The
form depends on the device and mode: in inference activations and BatchNorm
are fused into the preceding layer, in training inputs of layers are
recomputed, and on a CPU wide maps are processed in row tiles. Modules with
hooks and replaced modules are called as they are.
"""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.fusion import fuse_conv_bn_weights
from .cpu.onednn import as_image, convolve, from_image, fuses_activations
from .cpu.tiles import apply_by_tiles
from .cuda.recomputed_norm import normalize_and_activate
from .dilated_depthwise import DilatedDepthwiseConv
from .dynamic import is_traced
from .linear import Conv, DepthwiseConv, Linear, PointwiseConv, linear
from .norm import GlobalNorm
from .recompute import recompute_conv, recompute_linear, records_graph

ACTIVATIONS = (nn.SiLU, nn.GELU)
# Layers over the channels of channels-last maps.
LAST = (Linear, PointwiseConv, DepthwiseConv)
# Convolutions of (B, C, H, W).
CONVOLUTIONS = (nn.Conv2d, DilatedDepthwiseConv)
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
# Cheap to compute again in the backward pass.
RECOMPUTED = (*ACTIVATIONS, nn.LayerNorm)
# Deterministic modules that compute each row, or window, by itself.
PLAIN = (*ACTIVATIONS, *LAST, *CONVOLUTIONS, *BATCH_NORMS, Conv, GlobalNorm,
         nn.LayerNorm, nn.Identity, nn.Sequential, nn.ModuleList)
PLAIN_TENSORS = (nn.Parameter, Tensor)


def sequence(x: Tensor, *layers: nn.Module) -> Tensor:
    """``for layer in layers: x = layer(x)``.

    Args:
        x (Tensor): The input of the first layer.
        *layers (nn.Module): Layers, or containers of them.

    Returns:
        Tensor: The output of the last layer.
    """
    steps: list[nn.Module] = []
    for layer in layers:
        _unpack(layer, steps)
    while steps:
        count = _count_tiled(steps)
        if count > 1:
            x = _run_tiled(x, steps[:count])
        else:
            x, count = _run_first(x, steps)
        steps = steps[count:]
    return x


class Layers(nn.Sequential):
    """:class:`torch.nn.Sequential` that calls :func:`sequence`."""

    def forward(self, x: Tensor) -> Tensor:
        """Output of the last layer."""
        return sequence(x, *self)


def by_rows(method: Callable[..., Tensor],
            x: Tensor,
            *tensors: Tensor,
            every: int = 1) -> Tensor:
    """``method(x, *tensors)``, for a method that treats rows alike.

    Args:
        method (Callable): A method of a module, all of whose parameters
            belong to that module. Takes (B, H, W, C) to (B, H, W, C'), each
            group of `every` rows by itself.
        x (Tensor): (B, H, W, C).
        *tensors (Tensor): Further arguments.
        every (int): Number of rows that belong together. Defaults to 1.

    Returns:
        Tensor: (B, H, W, C').
    """
    owner = method.__self__  # type: ignore[attr-defined]
    modules = list(owner.modules())[1:]
    if is_traced() or not all(map(is_plain, modules)):
        return method(x, *tensors)
    return apply_by_tiles(
        method,
        x,
        x.shape[-1],
        multiple=every,
        tensors=tensors,
        parameters=owner.parameters())


def is_plain(module: nn.Module) -> bool:
    """Whether a call of this module may be replaced by another form of it.

    Not so for subclasses and replacements, as of LoRA, of quantization or
    with a parametrization, nor where hooks would miss the call.
    """
    return (type(module) in PLAIN and not _is_observed(module) and all(
        type(p) in PLAIN_TENSORS
        for p in module._parameters.values() if p is not None))


def _is_observed(module: nn.Module) -> bool:
    """Whether a module has hooks or a forward of its own instance."""
    return bool('forward' in module.__dict__ or module._forward_hooks
                or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or module._compiled_call_impl
                or torch_module._global_forward_hooks
                or torch_module._global_forward_pre_hooks
                or torch_module._global_backward_hooks
                or torch_module._global_backward_pre_hooks)


def _unpack(layer: nn.Module, steps: list[nn.Module]) -> None:
    """Append a layer, or the layers of a container that only calls them."""
    if (type(layer).forward in (nn.Sequential.forward, Layers.forward)
            and not _is_observed(layer)):
        for child in layer.children():
            _unpack(child, steps)
    else:
        steps.append(layer)


def _width(layer: nn.Module) -> int:
    """Channels that a layer puts out."""
    return getattr(layer, 'out_channels', getattr(layer, 'out_features', 0))


def _count_tiled(steps: Sequence[nn.Module]) -> int:
    """Number of leading steps that may be computed in row tiles."""
    count = 0
    while (count < len(steps) and type(steps[count]) in (*LAST, *ACTIVATIONS)
           and is_plain(steps[count])):
        count += 1
    return count


def _run_tiled(x: Tensor, steps: Sequence[nn.Module]) -> Tensor:

    def run(x: Tensor) -> Tensor:
        rest = list(steps)
        while rest:
            x, count = _run_first(x, rest)
            rest = rest[count:]
        return x

    return apply_by_tiles(
        run,
        x,
        max(map(_width, steps)),
        halo=sum(step.padding[0] for step in steps
                 if isinstance(step, DepthwiseConv)),
        parameters=[p for step in steps for p in step.parameters()])


def _run_first(x: Tensor, steps: Sequence[nn.Module]) -> tuple[Tensor, int]:
    """Result of the first step, or of several at once, and their number."""
    first, *rest = steps
    if not is_plain(first):
        return first(x), 1
    after = rest[0] if rest and is_plain(rest[0]) else None
    if (isinstance(first, RECOMPUTED) and isinstance(after, LAST)
            and records_graph(x, *first.parameters(), *after.parameters())):
        return _recompute(x, first, after), 2
    if type(first) in LAST and fuses_activations(x):
        if type(after) not in ACTIVATIONS:
            return first(x), 1
        return _fuse_activation(x, first, after), 2
    if (type(first) is nn.BatchNorm2d and first.affine
            and isinstance(after, ACTIVATIONS) and x.device.type != 'cpu'
            and records_graph(x, *first.parameters())):
        return normalize_and_activate(x, first, after), 2
    if type(first) in CONVOLUTIONS and _can_be_folded(after):
        return _fold_norm(x, first, after, *rest[1:2])
    return first(x), 1


def _recompute(x: Tensor, before: nn.Module, layer: nn.Module) -> Tensor:
    """layer(before(x)) that keeps x alone for the backward pass."""
    if isinstance(layer, DepthwiseConv):
        return recompute_conv(before, x, layer)
    return recompute_linear(before, x, layer.weight.flatten(1), layer.bias)


def _fuse_activation(x: Tensor, layer: nn.Module,
                     activation: nn.Module) -> Tensor:
    """activation(layer(x)) in one pass."""
    if isinstance(layer, DepthwiseConv):
        out = convolve(as_image(x), layer, layer.weight, layer.bias, activation)
        return from_image(out, x)
    return linear(x, layer.weight.flatten(1), layer.bias, activation)


def _can_be_folded(norm: nn.Module | None) -> bool:
    """Whether a norm is a BatchNorm with fixed statistics."""
    return (isinstance(norm, BATCH_NORMS) and not norm.training
            and norm.running_var is not None and not torch.is_grad_enabled()
            and not is_traced())


def _fold_norm(x: Tensor,
               conv: nn.Conv2d,
               norm: nn.Module,
               after: nn.Module | None = None) -> tuple[Tensor, int]:
    """norm(conv(x)), and the activation after them if there is one, in one
    pass; and the number of layers that it took."""
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias,
                                        norm.running_mean, norm.running_var,
                                        norm.eps, norm.weight, norm.bias)
    if fuses_activations(x):
        fused = after is not None and type(after) in ACTIVATIONS and is_plain(
            after)
        activation = after if fused else None
        return convolve(x, conv, weight, bias, activation), 2 + fused
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation,
                    conv.groups), 2
