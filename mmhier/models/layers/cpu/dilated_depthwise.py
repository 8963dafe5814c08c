"""Depthwise convolution with dilation whose backward pass is fast."""
from itertools import product
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor


def dilated_depthwise(x: Tensor, weight: Tensor, stride: int,
                      dilation: int) -> Tensor:
    """Depthwise 3x3 convolution whose padding equals its dilation.

    Args:
        x (Tensor): (B, C, H, W).
        weight (Tensor): (C, 1, 3, 3).
        stride (int): Stride.
        dilation (int): Dilation.

    Returns:
        Tensor: (B, C, ceil(H / stride), ceil(W / stride)).
    """
    return _DilatedDepthwiseConv.apply(x, weight, stride, dilation)


class _DilatedDepthwiseConv(torch.autograd.Function):
    """Depthwise 3x3 convolution whose backward pass is fast on a CPU.

    oneDNN takes ten times as long for the gradients of a dilated depthwise
    convolution as for the convolution. Here the input's is another
    convolution, the weight's that of an undilated one over the subsampled
    maps that the dilation keeps apart.
    """

    @staticmethod
    def forward(ctx, x, weight, stride, dilation):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return F.conv2d(x, weight, None, stride, dilation, dilation,
                        len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        channels, kernel = len(weight), weight.to(grad.dtype)
        # Pixels between those of a common step are never read.
        step = gcd(ctx.stride, ctx.dilation)
        read = x[..., ::step, ::step].to(grad.dtype)
        stride, dilation = ctx.stride // step, ctx.dilation // step
        if stride > 1:
            sparse = torch.zeros_like(read)
            sparse[..., ::stride, ::stride] = grad
            grad = sparse
        grad_read = F.conv2d(grad, kernel.flip(2, 3), None, 1, dilation,
                             dilation, channels)
        grad_weight = torch.ops.aten.convolution_backward(
            subsample(grad, dilation), subsample(read, dilation), kernel, None,
            (1, 1), (1, 1), (1, 1), False, (0, 0), channels,
            (False, True, False))[1]
        grad_x = grad_read
        if step > 1:
            grad_x = torch.zeros_like(x)
            grad_x[..., ::step, ::step] = grad_read
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None, None


def subsample(x: Tensor, step: int) -> Tensor:
    """All maps x[..., p::step, q::step] as images of one batch.

    (B, C, H, W) -> (step**2 * B, C, ceil(H / step), ceil(W / step)), zeros
    where a map is shorter.
    """
    batch, channels, height, width = x.shape
    rows, columns = -(-height // step), -(-width // step)
    out = x.new_empty(step, step, batch, rows, columns, channels)
    for p, q in product(range(step), repeat=2):
        part = x[..., p::step, q::step].permute(0, 2, 3, 1)
        out[p, q, :, :part.shape[1], :part.shape[2]] = part
        out[p, q, :, part.shape[1]:] = 0
        out[p, q, :, :, part.shape[2]:] = 0
    return out.flatten(0, 2).permute(0, 3, 1, 2)
