"""Relative position bias over a grid of tokens."""
import math

import torch
from torch import Tensor
from .dynamic import resize


def relative_position_bias(table: Tensor, height: int, width: int) -> Tensor:
    """Bias of every pair of tokens of a height x width grid.

    Args:
        table (Tensor): ((2 * height - 1) * (2 * width - 1), num_heads). Row
            (dy + height - 1) * (2 * width - 1) + dx + width - 1 holds the
            bias of a query that lies (dy, dx) from its key, in tokens.
        height (int): Rows of the grid.
        width (int): Columns of the grid.

    Returns:
        Tensor: (num_heads, height * width, height * width), queries before
        keys, both row-major.
    """
    table = table.view(2 * height - 1, 2 * width - 1, -1)
    y = torch.arange(height, device=table.device)
    x = torch.arange(width, device=table.device)
    rows = (y + (height - 1))[:, None] - y
    columns = (x + (width - 1))[:, None] - x
    bias = table[rows][:, :, columns]
    num_tokens = height * width
    return bias.permute(4, 0, 2, 1, 3).reshape(-1, num_tokens, num_tokens)


def window_position_bias(table: Tensor, size: int) -> Tensor:
    """:func:`relative_position_bias` of a window of fixed size.

    Takes fewer operations, but does not suit graphs of varying sizes.

    Args:
        table (Tensor): ((2 * size - 1)**2, num_heads).
        size (int): Window side in tokens.

    Returns:
        Tensor: (num_heads, size * size, size * size).
    """
    grid = table.view(2 * size - 1, 2 * size - 1, -1)
    # A query's window of the table holds its keys in reverse order.
    bias = grid.unfold(0, size, 1).unfold(1, size, 1).flip(3, 4)
    return bias.permute(2, 0, 1, 3, 4).reshape(-1, size**2, size**2)


def resize_bias_table(table: Tensor, height: int, width: int) -> Tensor:
    """Bias table of a square grid -> of a height x width grid, bicubic.

    Args:
        table (Tensor): ((2 * side - 1)**2, num_heads), see
            :func:`relative_position_bias`.
        height (int): Rows of the grid.
        width (int): Columns of the grid.

    Returns:
        Tensor: ((2 * height - 1) * (2 * width - 1), num_heads), the
        same numbers if the table has that grid.
    """
    side = math.isqrt(table.shape[0])
    grid = table.t().view(1, -1, side, side)
    grid = resize(grid, 2 * height - 1, 2 * width - 1, 'bicubic')
    return grid.flatten(2)[0].t()


def bias_windows(table: Tensor) -> Tensor:
    """Bias of every pair of tokens as a view of its table.

    Args:
        table (Tensor): (num_heads, 2 * H - 1, 2 * W - 1).

    Returns:
        Tensor: (num_heads, H, W, H, W), queries before keys, the keys in
        reverse order.
    """
    height, width = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    return table.unfold(1, height, 1).unfold(2, width, 1)


def row_chunks(height: int, row_size: int, size: int) -> list[slice]:
    """Slices of the rows of a grid of queries.

    Args:
        height (int): Rows of the grid.
        row_size (int): Numbers in the logits of a row.
        size (int): Numbers that the logits of a slice may take.

    Returns:
        list[slice]: Even slices, of one row at least.
    """
    rows = max(1, size // row_size)
    # Even chunks: a small last one would keep few threads busy.
    rows = -(-height // -(-height // rows))
    return [slice(y, min(y + rows, height)) for y in range(0, height, rows)]
