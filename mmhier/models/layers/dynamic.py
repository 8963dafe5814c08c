"""Operations for compiled and exported graphs, which serve every image size.

In such graphs these functions take forms that put no condition on the sizes;
elsewhere they take the shortest way to the same numbers.
"""
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from .cuda.bicubic import resize_by_products

_COMPILED: dict[tuple, Callable] = {}


def is_traced() -> bool:
    """Whether a graph is being recorded by a compiler, exporter or tracer.

    Such a graph is meant for other sizes and weights too, so it should see
    plain operators, without tiles, caches or autograd functions of ours.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def call_compiled(function: Callable, *args: Any, **options: Any) -> Any:
    """Call a function compiled by :func:`torch.compile`.

    It is compiled once for all callers with the same options, so that copies
    of a module, as of an average of its weights, run on their own weights.
    While a graph is being recorded the function itself is called.

    Args:
        function (Callable): A function of a module or class.
        *args: Its arguments.
        **options: Of :func:`torch.compile`; `dynamic` defaults to True.
    """
    if is_traced():
        return function(*args)
    key = (function, repr(sorted(options.items())))
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(function, **{'dynamic': True, **options})
    return _COMPILED[key](*args)


def any_size() -> AbstractContextManager:
    """Keep torch.export from tying a graph to sizes that oneDNN prefers.

    Which kernel takes a convolution of one CPU image depends on its size; the
    choice is made again when the exported program runs.
    """
    # torch.compile takes is_exporting for true and cannot trace the flags.
    if (torch.compiler.is_exporting()
            and not torch.compiler.is_dynamo_compiling()):
        return torch.backends.mkldnn.flags(enabled=False)
    return nullcontext()


def may_need_padding(height: int, width: int, multiple: int) -> bool:
    """Whether a map may hold partial cells of `multiple` x `multiple`.

    Always true in a graph, where the question would cost one more compilation
    for each kind of size.
    """
    return (torch.compiler.is_compiling() or height % multiple != 0
            or width % multiple != 0)


def num_windows(length: int, size: int) -> int:
    """Number of windows along one axis, rounded up.

    A compiled graph takes at least two, the second of padding alone if need
    be, since torch compiles once more for a count of one.
    """
    count = -(-length // size)
    if not torch.compiler.is_compiling():
        return count
    # Dynamo makes a sym_max of max, and in torch 2.7 takes no other.
    if torch.compiler.is_dynamo_compiling():
        return max(count, 2)
    return torch.sym_max(count, 2)


def pad_for_stride(x: Tensor, stride: int) -> Tensor:
    """Zeros on the right and bottom of (B, C, H, W) to fill the last cells.

    In a graph `stride - 1` rows and columns are added; a convolution of that
    stride drops those that fill no cell.
    """
    if torch.compiler.is_compiling():
        bottom = right = stride - 1
    else:
        bottom, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Top left part of a map: (B, C, H, W) -> (B, C, height, width)."""
    if torch.compiler.is_compiling():
        return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return x[:, :, :height, :width]


def resize(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Interpolate (B, C, H, W) to (B, C, height, width), if it differs.

    Args:
        x (Tensor): The maps.
        height (int): Rows of the result.
        width (int): Columns of the result.
        mode (str): 'bilinear' or 'bicubic', without aligned corners.
    """
    if not torch.compiler.is_compiling() and x.shape[2:] == (height, width):
        return x
    if (mode == 'bicubic' and x.device.type != 'cpu' and not is_traced()
            and torch.are_deterministic_algorithms_enabled()):
        return resize_by_products(x, height, width)
    return F.interpolate(x, (height, width), mode=mode, align_corners=False)


def average_cells(x: Tensor, size: int) -> Tensor:
    """Mean of each size x size cell of (B, H, W, C), partial cells too.

    Args:
        x (Tensor): The map.
        size (int): Side of the cells.

    Returns:
        Tensor: (B, ceil(H / size), ceil(W / size), C).
    """
    if size == 1:
        return x
    height, width = x.shape[1:3]
    x = x.permute(0, 3, 1, 2)
    if not may_need_padding(height, width, size):
        return F.avg_pool2d(x, size).permute(0, 2, 3, 1)
    rows, columns = -(-height // size), -(-width // size)
    x = F.pad(x, (0, columns * size - width, 0, rows * size - height))
    sums = F.avg_pool2d(x, size, divisor_override=1).permute(0, 2, 3, 1)
    row_starts = size * torch.arange(rows, device=x.device)
    column_starts = size * torch.arange(columns, device=x.device)
    counts = ((height - row_starts[:, None]).clamp(max=size) *
              (width - column_starts).clamp(max=size))
    return sums / counts[..., None]


def max_cells(x: Tensor, height: int, width: int) -> Tensor:
    """Maximum of each 2x2 cell, partial cells too.

    Pairs of rows, then of columns, by index: unlike max_pool2d, which
    depends on whether sizes are odd, this exports for all of them.

    Args:
        x (Tensor): (B, C, height, width).
        height (int): H of the map.
        width (int): W of the map.

    Returns:
        Tensor: (B, C, ceil(height / 2), ceil(width / 2)).
    """
    for dim, size in ((2, height), (3, width)):
        first = torch.arange(0, size, 2, device=x.device)
        second = (first + 1).clamp(max=size - 1)
        x = torch.maximum(
            x.index_select(dim, first), x.index_select(dim, second))
    return x
