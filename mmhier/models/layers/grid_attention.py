"""Attention over a whole grid with relative position bias."""
from torch import Tensor
from .attention import attend
from .cpu.grid_attention import attend_by_rows
from .cuda.grid_attention import attend_by_chunks
from .dynamic import is_traced
from .position_bias import relative_position_bias


def attend_grid(q: Tensor,
                k: Tensor,
                v: Tensor,
                table: Tensor,
                height: int,
                width: int,
                attn_impl: str = 'auto') -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of a grid of tokens.

    Args:
        q (Tensor): Queries, (B, num_heads, height * width, d).
        k (Tensor): Keys, of the same shape.
        v (Tensor): Values, of the same shape.
        table (Tensor): ((2 * height - 1) * (2 * width - 1), num_heads), see
            :func:`relative_position_bias`.
        height (int): Rows of the grid.
        width (int): Columns of the grid.
        attn_impl (str): 'auto' holds the biases and logits of a few rows of
            queries at a time, but in graphs; for others see :func:`attend`.
            Defaults to 'auto'.

    Returns:
        Tensor: (B, num_heads, height * width, d).
    """
    if attn_impl == 'auto' and not is_traced():
        attend_parts = (
            attend_by_rows if q.device.type == 'cpu' else attend_by_chunks)
        return attend_parts(q, k, v, table, height, width)
    bias = relative_position_bias(table, height, width)
    return attend(q, k, v, bias, attn_impl=attn_impl)
