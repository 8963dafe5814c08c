"""One backward pass for all outputs of a module."""
from typing import Any

import torch
from torch import Tensor


class _TiedGradients(torch.autograd.Function):
    """The identity; autograd passes zeros for the outputs without gradient."""

    @staticmethod
    def forward(*maps: Tensor) -> tuple[Tensor, ...]:
        # Heads may modify maps in place, which autograd forbids for views.
        return tuple(x.detach() for x in maps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*(y for x, y in zip(inputs, output)
                                      if not x.requires_grad))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads


def tie_gradients(maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give unused maps zero gradients when another map has a gradient.

    Every parameter gets a gradient even if the loss uses some maps only, as
    DistributedDataParallel requires.

    Args:
        maps (tuple[Tensor]): Outputs of a module.

    Returns:
        tuple[Tensor]: The same values in the same memory.
    """
    if len(maps) == 1 or not torch.is_grad_enabled():
        return maps
    return _TiedGradients.apply(*maps)
