"""BatchNorm and an activation that keep one map for the backward pass."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
    return _NormAndActivation.apply(x, norm.weight, norm.bias, norm, activation)


class _NormAndActivation(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, norm, activation):
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = norm, activation
        # Those of the batch need no buffers.
        ctx.statistics = None, None
        ctx.of_batch = norm.training or norm.running_mean is None
        if not ctx.of_batch:
            ctx.statistics = norm.running_mean, norm.running_var
        return activation(norm(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        norm, activation = ctx.settings
        leaves = [
            t.detach().requires_grad_(needed)
            for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad)
        ]
        x, weight, bias = leaves
        with torch.enable_grad():
            out = F.batch_norm(
                x, *ctx.statistics, weight, bias, ctx.of_batch, eps=norm.eps)
            out = activation(out)
        wanted = [t for t in leaves if t.requires_grad]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return (*(next(grads) if t.requires_grad else None
                  for t in leaves), None, None)
