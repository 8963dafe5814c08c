"""Attention over a whole grid with relative position bias, in little memory.

The bias of all pairs of N tokens takes num_heads * N * N numbers; here it is
never held for more than a few rows of queries, in either direction. With the
keys in reverse order the bias of query (y, x) is the window of the table that
starts at (y, x), so that it is copied by rows of the table, without indices,
and its gradient is what `fold` sums.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from ..position_bias import bias_windows, row_chunks

# Numbers in a buffer of logits: 64 MiB in float32.
BUFFER_SIZE = 2**24


def attend_by_rows(q: Tensor, k: Tensor, v: Tensor, table: Tensor, height: int,
                   width: int) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of a grid of tokens.

    Equals :func:`attend` with the bias of :func:`relative_position_bias`
    within rounding, gradients included, with logits of a few rows of queries
    in memory at a time. Not traceable; has no second derivative.

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
    # A copy of q, like those of k and v, lets go of the qkv they are part of.
    return _GridAttention.apply(q.contiguous(), k.flip(2), v.flip(2),
                                table.to(q.dtype))


class _GridAttention(torch.autograd.Function):
    """Inputs as in attend_by_rows, but for the keys' and values' reverse order
    and the table's shape (heads, 2 * H - 1, 2 * W - 1)."""

    @staticmethod
    def forward(ctx, q, k, v, table):
        windows = bias_windows(table)
        heads, height, width = windows.shape[:3]
        num_keys = height * width
        chunks = row_chunks(height, heads * width * num_keys, BUFFER_SIZE)
        buffer = windows.new_empty(heads, chunks[0].stop, width, height, width)
        # Laid out as the caller will need it, (B, N, heads, d).
        out = q.new_empty(len(q), num_keys, heads, q.shape[3]).transpose(1, 2)
        for rows in chunks:
            bias = buffer[:, :rows.stop - rows.start].copy_(windows[:, rows])
            queries = slice(rows.start * width, rows.stop * width)
            out[:, :, queries] = F.scaled_dot_product_attention(
                q[:, :, queries],
                k,
                v,
                attn_mask=bias.reshape(1, heads, -1, num_keys))
        ctx.save_for_backward(q, k, v, table, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, table, out = ctx.saved_tensors
        batch, heads, num_keys, head_dim = k.shape
        # Sums and softmax of half precision are taken in float32.
        dtype = q.dtype
        wide = torch.promote_types(dtype, torch.float32)
        # Keys before queries throughout, as `fold` asks.
        windows = bias_windows(table).permute(0, 3, 4, 1, 2)
        windows = windows.expand(batch, -1, -1, -1, -1, -1)
        height, width = windows.shape[2:4]
        # The mean that softmax's backward subtracts, from the output.
        shift = (grad_out.to(wide) * out).sum(3).flatten(0, 1)[:, None]
        q, k, v, grad_out = (x.flatten(0, 1) for x in (q, k, v, grad_out))
        q = q * head_dim**-0.5
        grad_q = torch.empty_like(q)
        grad_k, grad_v, grad_table = (
            torch.zeros_like(x, dtype=wide) for x in (k, v, table))
        # Four buffers at a time, used again and again: better small.
        for rows in row_chunks(height, batch * heads * width * num_keys,
                               BUFFER_SIZE // 4):
            queries = slice(rows.start * width, rows.stop * width)
            q_rows, grad_rows = q[:, queries], grad_out[:, queries]
            logits = windows[..., rows, :].clone(
                memory_format=torch.contiguous_format)
            logits = logits.view(len(k), num_keys, -1)
            probs = logits.baddbmm_(k, q_rows.mT).softmax(1, wide)
            grad_v += probs.to(dtype) @ grad_rows
            grad_logits = torch.bmm(v, grad_rows.mT).to(wide)
            grad_logits.sub_(shift[:, :, queries]).mul_(probs)
            table_rows = slice(rows.start, rows.stop + height - 1)
            grad_table[:, table_rows] += F.fold(
                grad_logits.view(batch, heads * num_keys, -1),
                (height + rows.stop - rows.start - 1, 2 * width - 1),
                (height, width)).sum(0)
            grad_logits = grad_logits.to(dtype)
            grad_q[:, queries] = grad_logits.mT @ k
            grad_k += grad_logits @ q_rows
        grads = (grad_q * head_dim**-0.5, grad_k.to(dtype), grad_v.to(dtype))
        return (*(g.unflatten(0, (batch, heads))
                  for g in grads), grad_table.to(table.dtype))
