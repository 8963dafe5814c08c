"""A model in the form in which it can be traced for every size."""
from copy import deepcopy

import torch
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, for sizes yet unknown.

    Args:
        size (tuple[int, int]): Rows and columns of cells.
    """

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *size)."""
        rows, columns = (
            _cell_weights(length, cells, x)
            for length, cells in zip(x.shape[2:], self.size))
        return rows @ x @ columns.t()


def _cell_weights(length: int, cells: int, like: Tensor) -> Tensor:
    """(cells, length) share of each pixel in the mean of each cell.

    Cell i reaches from floor(i * length / cells) to
    ceil((i + 1) * length / cells).
    """
    cell = torch.arange(cells, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)
    # pixel >= floor(a / cells) and pixel < ceil(b / cells), in integers.
    inside = (((pixel + 1) * cells > cell * length) &
              (pixel * cells < (cell + 1) * length))
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def prepare_for_export(model: nn.Module) -> nn.Module:
    """Copy a model for tracing.

    Args:
        model (nn.Module): Stays as it is.

    Returns:
        nn.Module: In eval mode, with the same outputs within rounding.
    """
    model = revert_sync_batchnorm(deepcopy(model)).eval()
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                size = (size, size) if isinstance(size, int) else size
                if None not in size:
                    setattr(module, name, AdaptiveAvgPool(size))
    return model
