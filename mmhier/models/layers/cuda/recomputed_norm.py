"""BatchNorm and an activation that keep one map for the backward pass."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary


def normalize_and_activate(x: Tensor, norm: nn.BatchNorm2d,
                           activation: nn.Module) -> Tensor:
    """activation(norm(x)) that keeps x alone for the backward pass.

    torch keeps the norm's output too, for the activation. Has no second
    derivative.

    Args:
        x (Tensor): (B, C, H, W).
        norm (nn.BatchNorm2d): Its statistics are updated once.
        activation (nn.Module): Of its elements.

    Returns:
        Tensor: (B, C, H, W).
    """
    of_batch = norm.training or norm.running_mean is None
    form = NormAndActivation(norm, activation,
                             None if of_batch else norm.running_mean,
                             None if of_batch else norm.running_var)
    out = _NormAndActivation.apply(x, norm.weight, norm.bias, form)
    _ORIGINS[out] = x, form
    return out


def origin(y: Tensor) -> tuple[Tensor, 'NormAndActivation'] | None:
    """Look up how to recompute a map.

    Args:
        y (Tensor): A map, or a view of it.

    Returns:
        tuple | None: x and the function of x that gives the whole map, if
        :func:`normalize_and_activate` made it; None otherwise.
    """
    return _ORIGINS.get(y if y._base is None else y._base)


class NormAndActivation(NamedTuple):
    """The two layers; `mean` and `var` are None for batch statistics."""
    norm: nn.BatchNorm2d
    activation: nn.Module
    mean: Tensor | None
    var: Tensor | None

    def __call__(self,
                 x: Tensor,
                 weight: Tensor | None = None,
                 bias: Tensor | None = None) -> Tensor:
        """Compute the map, updating no statistics.

        Args:
            x (Tensor): (B, C, H, W).
            weight (Tensor, optional): Instead of the norm's.
            bias (Tensor, optional): Likewise.
        """
        norm = self.norm
        return self.activation(
            F.batch_norm(
                x,
                self.mean,
                self.var,
                norm.weight if weight is None else weight,
                norm.bias if bias is None else bias,
                self.mean is None,
                eps=norm.eps))


_ORIGINS = WeakTensorKeyDictionary()


class _NormAndActivation(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, form):
        ctx.save_for_backward(x, weight, bias)
        ctx.form = form
        return form.activation(form.norm(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        leaves = [
            t.detach().requires_grad_(needed)
            for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad)
        ]
        with torch.enable_grad():
            out = ctx.form(*leaves)
        wanted = [t for t in leaves if t.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return *(next(grads) if t.requires_grad else None for t in leaves), None
