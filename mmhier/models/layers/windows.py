"""Square windows of tokens, plain or dilated, with their exact inverse.

Maps are channels-last, (B, H, W, C). With dilation d, a map is first split
into its d * d residue classes (p, q), each the subsampled map x[p::d, q::d],
and each class into windows: token (i, j) of window (a, b) of class (p, q) is
pixel (d * (size * a + i) + p, d * (size * b + j) + q).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def partition_windows(x: Tensor, size: int, dilation: int = 1) -> Tensor:
    """Cut a map into windows, padding right and bottom with zeros if needed.

    Args:
        x (Tensor): (B, H, W, C).
        size (int): Window side in tokens.
        dilation (int): Distance of neighbouring tokens of a window, in
            pixels. Defaults to 1.

    Returns:
        Tensor: (B * num_windows, size * size, C); windows ordered by image,
        residue class and position, tokens row-major. Tokens that are padding
        are marked by :func:`window_key_mask`.
    """
    multiple = size * dilation
    batch, height, width, channels = x.shape
    rows = _num_windows(height, multiple)
    columns = _num_windows(width, multiple)
    if may_need_padding(height, width, multiple):
        x = F.pad(
            x,
            (0, 0, 0, columns * multiple - width, 0, rows * multiple - height))
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
    rows = _num_windows(height, multiple)
    columns = _num_windows(width, multiple)
    channels = windows.shape[-1]
    batch = windows.shape[0] // (dilation**2 * rows * columns)
    x = windows.reshape(batch, dilation, dilation, rows, columns, size, size,
                        channels)
    x = x.permute(0, 3, 5, 1, 4, 6, 2,
                  7).clone(memory_format=torch.contiguous_format)
    x = x.view(batch, rows * multiple, columns * multiple, channels)
    if torch.compiler.is_compiling():
        # A slice would make the graph depend on whether anything is cut off.
        x = x.index_select(1, torch.arange(height, device=x.device))
        return x.index_select(2, torch.arange(width, device=x.device))
    return x[:, :height, :width]


def window_key_mask(height: int,
                    width: int,
                    size: int,
                    dilation: int = 1,
                    device: torch.device | None = None) -> Tensor | None:
    """Which tokens of each window are real.

    Args:
        height (int): H of the map that was partitioned.
        width (int): W of the map that was partitioned.
        size (int): Window side in tokens.
        dilation (int): As in :func:`partition_windows`. Defaults to 1.
        device (torch.device, optional): Of the mask. Defaults to None.

    Returns:
        Tensor | None: Bool, (num_windows, size * size), True for real
        tokens, or None when no window holds padding. A window of padding
        alone is all True, so that its softmax, whose result nobody reads,
        stays finite.
    """
    if not may_need_padding(height, width, size * dilation):
        return None
    real = torch.ones(1, height, width, 1, dtype=torch.bool, device=device)
    real = partition_windows(real, size, dilation).squeeze(-1)
    return real | ~real.any(-1, keepdim=True)


def _num_windows(length: int, multiple: int) -> int:
    """Windows along one axis.

    A compiled graph takes at least two, the second of padding alone if need
    be, since torch compiles once more for a count of one.
    """
    count = -(-length // multiple)
    return torch.sym_max(count, 2) if torch.compiler.is_compiling() else count


def may_need_padding(height: int, width: int, multiple: int) -> bool:
    """Whether a map may hold partial windows.

    A compiled or exported graph serves every size, so it always pads: asking
    there would compile once more for each kind of size.
    """
    return (torch.compiler.is_compiling() or height % multiple != 0
            or width % multiple != 0)
