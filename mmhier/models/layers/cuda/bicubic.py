"""Bicubic interpolation as two matrix products.

torch's CUDA kernel sums gradients in no fixed order.
"""
import torch
from torch import Tensor

# Keys' parameter of the cubic kernel, torch's value.
SHARPNESS = -0.75


def resize_by_products(x: Tensor, height: int, width: int) -> Tensor:
    """Resize maps like torch's bicubic mode, without aligned corners.

    Args:
        x (Tensor): (B, C, H, W).
        height (int): Rows of the result.
        width (int): Columns of the result.

    Returns:
        Tensor: (B, C, height, width).
    """
    rows, columns = (_weights(old, new, x)
                     for old, new in zip(x.shape[2:], (height, width)))
    return rows @ x @ columns.mT


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights (new, old) of `old` pixels in each of `new` pixels."""
    places = torch.arange(new, dtype=torch.float64, device=like.device)
    places = (places + 0.5) * (old / new) - 0.5
    taps = torch.arange(-1, 3, device=like.device)
    first = places.floor()
    distances = (places[:, None] - first[:, None] - taps).abs()
    cells = (first.long()[:, None] + taps).clamp(0, old - 1)
    is_cell = cells[..., None] == torch.arange(old, device=like.device)
    return (_kernel(distances)[..., None] * is_cell).sum(1).to(like.dtype)


def _kernel(t: Tensor) -> Tensor:
    """Cubic convolution at distances of up to 2."""
    a = SHARPNESS
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, far)
