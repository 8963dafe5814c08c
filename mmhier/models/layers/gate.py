"""Weighted sum of parallel branches whose weights depend on the input."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from .cuda.recomputed_norm import origin


class BranchGate(nn.Conv2d):
    """Weighted sum of parallel branches, weights per channel and pixel.

    A depthwise 1x1 convolution of the input gives each channel one logit per
    branch, their softmax the weights.

    Args:
        channels (int): Channels C.
        num_branches (int): Number of branches K.
        attn_impl (str): 'eager' for the readable form, which a compiler can
            fuse, anything else for one that stores no gates.
    """

    def __init__(self, channels: int, num_branches: int, attn_impl: str):
        super().__init__(channels, num_branches * channels, 1, groups=channels)
        self.attn_impl = attn_impl

    def forward(self,
                x: Tensor,
                branches: Sequence[Tensor],
                scales: Sequence[Tensor] | None = None) -> Tensor:
        """Gated sum of maps.

        Args:
            x (Tensor): (B, H, W, C), the input of the gates.
            branches (Sequence[Tensor]): K maps (B, H, W, C).
            scales (Sequence[Tensor], optional): One (B, 1, 1, C) per branch
                that it is multiplied by. Defaults to None.

        Returns:
            Tensor: (B, H, W, C).
        """
        shape = (self.in_channels, len(branches))
        weight = self.weight.view(shape).t()[:, None, None].contiguous()
        bias = self.bias.view(shape).t()[:, None, None].contiguous()
        factors: Tensor | None = None
        if scales is not None:
            factors = torch.stack(list(scales)).flatten(2, 3)
        if self.attn_impl != 'eager' and not torch.compiler.is_compiling():
            out = _GatedSum.apply(
                _GatedSum.chunks(x), [origin(y) for y in branches],
                x.flatten(1, 2), weight, bias, factors,
                *(y.flatten(1, 2) for y in branches))
            return out.view_as(branches[0])
        gates = torch.addcmul(bias[:, None], x[None], weight[:, None])
        gates = gates.softmax(0)
        if factors is not None:
            gates = gates * factors[:, :, None]
        total = sum(gate * y for gate, y in zip(gates, branches))
        return total.to(branches[0].dtype)


class _GatedSum(torch.autograd.Function):
    """The sum of :class:`BranchGate` in chunks of pixels.

    Gates live for one chunk, on a CPU in its cache, and are computed again
    in the backward pass, so that no K maps of them are ever stored. On a GPU
    training takes a single chunk, for fewer launches: activations that are
    freed by then leave room for it. Branches that can be computed again from
    maps stored anyway, see :func:`origin`, are not stored.

    Shapes: x and each branch (B, N, C), weight and bias (K, 1, 1, C), scales
    (K, B, 1, C).
    """

    CHUNK_ELEMENTS = 2**16
    GPU_CHUNK_ELEMENTS = 2**22

    @staticmethod
    def chunks(x: Tensor) -> list[slice]:
        """Slices of N that together cover x, (B, H, W, C)."""
        batch, height, width, channels = x.shape
        length = height * width
        if x.device.type == 'cpu':
            elements = _GatedSum.CHUNK_ELEMENTS * torch.get_num_threads()
        elif torch.is_grad_enabled():
            elements = x.numel()
        else:
            elements = _GatedSum.GPU_CHUNK_ELEMENTS
        size = max(1, elements // (batch * channels))
        return [slice(i, i + size) for i in range(0, length, size)]

    @staticmethod
    def forward(ctx, parts, origins, x, weight, bias, scales, *branches):
        ctx.parts = parts
        ctx.forms = [None if o is None else o[1] for o in origins]
        stored = (y if o is None else o[0] for o, y in zip(origins, branches))
        ctx.save_for_backward(x, weight, bias, scales, *stored)
        out = torch.empty_like(branches[0])
        for part in parts:
            gates = torch.addcmul(bias, x[None, :, part], weight).softmax(0)
            if scales is not None:
                gates *= scales
            total = gates[0] * branches[0][:, part]
            for gate, branch in zip(gates[1:], branches[1:]):
                total = total.addcmul_(gate, branch[:, part])
            out[:, part] = total
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, bias, scales, *stored = ctx.saved_tensors
        branches = [
            y if form is None else form(y).permute(0, 2, 3, 1).flatten(1, 2)
            for form, y in zip(ctx.forms, stored)
        ]
        grad_x = torch.empty_like(x)
        grad_branches = [torch.empty_like(branch) for branch in branches]
        grad_weight, grad_bias = map(torch.zeros_like, (weight, bias))
        grad_scales = None if scales is None else torch.zeros_like(scales)
        for part in ctx.parts:
            gates = torch.addcmul(bias, x[None, :, part], weight).softmax(0)
            shares = torch.empty_like(gates)
            for k, branch in enumerate(branches):
                torch.mul(grad[:, part], branch[:, part], out=shares[k])
            shares *= gates
            weights = gates
            if scales is not None:
                grad_scales += shares.sum(2, keepdim=True)
                shares *= scales
                weights = gates * scales
            for k, grad_branch in enumerate(grad_branches):
                torch.mul(weights[k], grad[:, part], out=grad_branch[:, part])
            grad_logits = shares.addcmul_(gates, shares.sum(0), value=-1)
            grad_x[:, part] = (grad_logits * weight).sum(0)
            grad_bias += grad_logits.sum((1, 2), keepdim=True)
            grad_weight += (grad_logits * x[None, :, part]).sum((1, 2),
                                                                keepdim=True)
        return (None, None, grad_x, grad_weight, grad_bias, grad_scales,
                *grad_branches)
