"""GroupNorm of one group on channels-last maps, in a form that fills a GPU.

torch's kernel takes the moments of each group with a single thread block, of
two images thus with two, and copies channels-last maps. Its reductions split
a map among blocks.
"""
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def global_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of one group.

    Not traceable; has no second derivative.

    Args:
        x (Tensor): (B, H, W, C).
        weight (Tensor): (C, ).
        bias (Tensor): (C, ).
        eps (float): Added to the variance.

    Returns:
        Tensor: (B, H, W, C), under autocast of its dtype.
    """
    device = x.device.type
    dtype = torch.promote_types(x.dtype, weight.dtype)
    if (torch.amp.is_autocast_available(device)
            and torch.is_autocast_enabled(device)):
        dtype = torch.get_autocast_dtype(device)
    return _GlobalNorm.apply(x, weight, bias, eps, dtype)


class _GlobalNorm(torch.autograd.Function):
    """`dtype` is that of the result; computes in that of the weight."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype):
        wide = x.to(weight.dtype)
        var, mean = torch.var_mean(wide, (1, 2, 3), correction=0, keepdim=True)
        rstd = (var + eps).rsqrt()
        scale = rstd * weight
        shift = torch.addcmul(bias, mean, scale, value=-1)
        out = torch.empty_like(
            x, dtype=dtype, memory_format=torch.contiguous_format)
        torch.addcmul(shift, wide, scale, out=out)
        ctx.save_for_backward(x, weight, mean.flatten(1), rstd.flatten(1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, mean, rstd = ctx.saved_tensors
        batch, height, width, channels = x.shape
        # As this operator takes them: (B, C, H, W), contiguous.
        wide, grad = (
            t.permute(0, 3, 1, 2).to(
                weight.dtype, memory_format=torch.contiguous_format)
            for t in (x, grad))
        grad_x, grad_weight, grad_bias = (
            torch.ops.aten.native_group_norm_backward(grad, wide.contiguous(),
                                                      mean, rstd, weight, batch,
                                                      channels, height * width,
                                                      1,
                                                      ctx.needs_input_grad[:3]))
        if grad_x is not None:
            grad_x = grad_x.permute(0, 2, 3, 1).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None
