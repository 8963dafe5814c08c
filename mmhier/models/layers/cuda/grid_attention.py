"""Attention over a whole grid with relative position bias, in little memory.

torch's fused attention takes chunks of queries, each with its part of the
bias, and takes them again in the backward pass, where it returns a gradient
of that bias too. The bias of all pairs of tokens is never stored.
"""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from ..position_bias import bias_windows, row_chunks

# Numbers in a chunk of the logits: fewer launches than smaller chunks, while
# bias and gradient stay within 0.3 GiB in half precision.
CHUNK_SIZE = 2**26


def attend_by_chunks(q: Tensor, k: Tensor, v: Tensor, table: Tensor,
                     height: int, width: int) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of a grid of tokens.

    Equals :func:`attend` with the bias of :func:`relative_position_bias`
    within rounding, gradients included. Not traceable; has no second
    derivative.

    Args:
        q (Tensor): Queries, (B, num_heads, height * width, d).
        k (Tensor): Keys, of the same shape.
        v (Tensor): Values, of the same shape.
        table (Tensor): ((2 * height - 1) * (2 * width - 1), num_heads), see
            :func:`relative_position_bias`.
        height (int): Rows of the grid.
        width (int): Columns of the grid.

    Returns:
        Tensor: (B, num_heads, height * width, d).
    """
    table = table.t().reshape(-1, 2 * height - 1, 2 * width - 1)
    # Copies let go of the qkv that all three are part of.
    return _ChunkedAttention.apply(q.contiguous(), k.flip(2), v.flip(2),
                                   table.to(q.dtype))


def _chunks(q: Tensor, table: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows of the grid, their queries, and the bias of these."""
    windows = bias_windows(table)
    heads, height, width = windows.shape[:3]
    for rows in row_chunks(height, q.shape[2] * width * len(q) * heads,
                           CHUNK_SIZE):
        bias = windows[:, rows].reshape(1, heads, -1, q.shape[2])
        yield rows, slice(rows.start * width, rows.stop * width), bias


class _ChunkedAttention(torch.autograd.Function):
    """Inputs as in attend_by_chunks, but for the keys' and values' reverse
    order and the table's shape (heads, 2 * H - 1, 2 * W - 1)."""

    @staticmethod
    def forward(ctx, q, k, v, table):
        ctx.save_for_backward(q, k, v, table)
        batch, heads, num_keys, head_dim = q.shape
        # Laid out as the caller will need it, (B, N, heads, d).
        out = q.new_empty(batch, num_keys, heads, head_dim).transpose(1, 2)
        for _, queries, bias in _chunks(q, table):
            out[:, :, queries] = F.scaled_dot_product_attention(
                q[:, :, queries], k, v, attn_mask=bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, table = ctx.saved_tensors
        heads, height, width = bias_windows(table).shape[:3]
        # Half precision is summed up in float32.
        wide = torch.promote_types(q.dtype, torch.float32)
        grad_q = torch.empty_like(q)
        grad_k, grad_v, grad_table = (
            torch.zeros_like(x, dtype=wide) for x in (k, v, table))
        for rows, queries, bias in _chunks(q, table):
            leaves = [
                x.detach().requires_grad_()
                for x in (q[:, :, queries], k, v, bias)
            ]
            with torch.enable_grad():
                out = F.scaled_dot_product_attention(
                    *leaves[:3], attn_mask=leaves[3])
            grad_rows, grad_keys, grad_values, grad_bias = torch.autograd.grad(
                out, leaves, grad_out[:, :, queries])
            grad_q[:, :, queries] = grad_rows
            grad_k += grad_keys
            grad_v += grad_values
            # Keys before queries, as `fold` asks.
            grad_bias = grad_bias[0].mT
            grad_bias = torch.empty_like(
                grad_bias, dtype=wide,
                memory_format=torch.contiguous_format).copy_(grad_bias)
            count = rows.stop - rows.start
            grad_table[:, rows.start:rows.stop + height - 1] += F.fold(
                grad_bias.view(1, -1, count * width),
                (height + count - 1, 2 * width - 1), (height, width))[0]
        return (grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype),
                grad_table.to(table.dtype))
