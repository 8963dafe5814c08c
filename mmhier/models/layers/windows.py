"""Square windows of tokens, plain or dilated, with their exact inverse.

Maps are channels-last, (B, H, W, C). With dilation d, a map is first split
into its d * d residue classes (p, q), each the subsampled map x[p::d, q::d],
and each class into windows: token (i, j) of window (a, b) of class (p, q) is
pixel (d * (size * a + i) + p, d * (size * b + j) + q).
"""
import torch
import torch.nn.functional as F
from torch import Tensor
from .dynamic import crop, may_need_padding, num_windows


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
    rows = num_windows(height, multiple)
    columns = num_windows(width, multiple)
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
        alone is all True, so that its softmax, which is cropped, stays
        finite.
    """
    if not may_need_padding(height, width, size * dilation):
        return None
    real = torch.ones(1, height, width, 1, dtype=torch.bool, device=device)
    real = partition_windows(real, size, dilation).squeeze(-1)
    return real | ~real.any(-1, keepdim=True)
