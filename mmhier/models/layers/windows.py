"""Square windows of tokens, plain or dilated, with their exact inverse.

Maps are channels-last, (B, H, W, C). With dilation d, a map is first split
into its d * d residue classes (p, q), each the subsampled map x[p::d, q::d],
and each class into windows: token (i, j) of window (a, b) of class (p, q) is
pixel (d * (size * a + i) + p, d * (size * b + j) + q).
"""
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from .dynamic import crop, is_traced, may_need_padding, num_windows

# Added to the logits of padded keys. Their probability is exactly zero beside
# that of any other key; a window of padding alone stays finite.
MASKED = -3e4
_MASKS: ContextVar[dict[tuple, Tensor] | None] = ContextVar(
    'masks', default=None)


@contextmanager
def shared_masks() -> Iterator[None]:
    """Cache the results of :func:`window_mask` within the context."""
    if is_traced():
        yield
        return
    token = _MASKS.set({})
    try:
        yield
    finally:
        _MASKS.reset(token)


def partition_windows(x: Tensor,
                      size: int,
                      dilation: int = 1,
                      fill: float = 0.) -> Tensor:
    """Cut a map into windows, padding right and bottom if needed.

    Args:
        x (Tensor): (B, H, W, C).
        size (int): Window side in tokens.
        dilation (int): Distance of neighbouring tokens of a window, in
            pixels. Defaults to 1.
        fill (float): Value of the padding. Defaults to 0.

    Returns:
        Tensor: (B * num_windows, size * size, C); windows ordered by image,
        residue class and position, tokens row-major. Tokens that are padding
        are marked by :func:`window_mask`.
    """
    multiple = size * dilation
    batch, height, width, channels = x.shape
    rows = num_windows(height, multiple)
    columns = num_windows(width, multiple)
    if may_need_padding(height, width, multiple):
        padding = (0, 0, 0, columns * multiple - width, 0,
                   rows * multiple - height)
        x = F.pad(x, padding, value=fill)
    x = x.reshape(batch, rows, size, dilation, columns, size, dilation,
                  channels)
    x = x.permute(0, 3, 6, 1, 4, 2, 5,
                  7).clone(memory_format=torch.contiguous_format)
    return x.view(batch * dilation**2 * rows * columns, size**2, channels)


def merge_windows(windows: Tensor,
                  height: int,
                  width: int,
                  size: int,
                  dilation: int = 1) -> Tensor:
    """Inverse of :func:`partition_windows`, padding cut off.

    Args:
        windows (Tensor): (B * num_windows, size * size, C).
        height (int): H of the map.
        width (int): W of the map.
        size (int): Window side in tokens.
        dilation (int): As in :func:`partition_windows`. Defaults to 1.

    Returns:
        Tensor: (B, H, W, C).
    """
    multiple = size * dilation
    rows = num_windows(height, multiple)
    columns = num_windows(width, multiple)
    channels = windows.shape[-1]
    batch = windows.shape[0] // (dilation**2 * rows * columns)
    x = windows.reshape(batch, dilation, dilation, rows, columns, size, size,
                        channels)
    x = x.permute(0, 3, 5, 1, 4, 6, 2,
                  7).clone(memory_format=torch.contiguous_format)
    x = x.view(batch, rows * multiple, columns * multiple, channels)
    return crop(x.permute(0, 3, 1, 2), height, width).permute(0, 2, 3, 1)


def window_mask(x: Tensor, size: int, dilation: int = 1) -> Tensor | None:
    """Mask of the padding that :func:`partition_windows` adds to a map.

    Args:
        x (Tensor): The map, (B, H, W, C).
        size (int): Window side in tokens.
        dilation (int): As in :func:`partition_windows`. Defaults to 1.

    Returns:
        Tensor | None: (B * num_windows, 1, 1, size * size), to be added to
        logits: 0 at real tokens, ``MASKED`` at padding. None if no window
        holds padding.
    """
    height, width = x.shape[1:3]
    if not may_need_padding(height, width, size * dilation):
        return None
    masks = None if is_traced() else _MASKS.get()
    if masks is None:
        return _window_mask(x, size, dilation)
    key = (x.shape[:3], x.dtype, x.device, size, dilation)
    if key not in masks:
        masks[key] = _window_mask(x, size, dilation)
    return masks[key]


def _window_mask(x: Tensor, size: int, dilation: int) -> Tensor:
    real = x.new_zeros(*x.shape[:3], 1)
    mask = partition_windows(real, size, dilation, MASKED)
    return mask.view(-1, 1, 1, size**2)
