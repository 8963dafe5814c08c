"""A model in the form in which it can be traced for every size."""
from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn


class AdaptiveAvgPool(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, for sizes yet unknown.

    Args:
        size (tuple[int, int]): Rows and columns of cells.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, *size)."""
        rows, columns = (_cell_weights(length, cells, x)
                         for length, cells in zip(x.shape[2:], self.size))
        return rows @ x @ columns.t()


class IntegerUpsample(nn.Module):
    """mmseg's Upsample by a whole number.

    mmseg's own takes its output size for a constant when it is traced, since
    it goes through a float.

    Args:
        scale (int): Of height and width.
        mode (str): Of ``F.interpolate``.
        align_corners (bool, optional): Of ``F.interpolate``.
    """

    def __init__(self, scale: int, mode: str, align_corners: bool | None):
        super().__init__()
        self.scale = scale
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, scale * H, scale * W)."""
        size = [length * self.scale for length in x.shape[2:]]
        return F.interpolate(
            x, size, mode=self.mode, align_corners=self.align_corners)


class SubsampledLevels(nn.Module):
    """mmdet's FPN whose coarsest levels take every second pixel.

    mmdet takes them by a max pooling, whose trace fits either odd or even
    sizes only.

    Args:
        fpn (nn.Module): Without convolutions for the extra levels; changed.
    """

    def __init__(self, fpn: nn.Module):
        super().__init__()
        self.fpn = fpn
        self.num_extra = fpn.num_outs - len(fpn.lateral_convs)
        fpn.num_outs = len(fpn.lateral_convs)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone -> those of all levels."""
        levels = list(self.fpn(maps))
        for _ in range(self.num_extra):
            levels.append(levels[-1][:, :, ::2, ::2])
        return tuple(levels)


def _cell_weights(length: int, cells: int, like: Tensor) -> Tensor:
    """(cells, length) share of each pixel in the mean of each cell.

    Cell i reaches from floor(i * length / cells) to
    ceil((i + 1) * length / cells).
    """
    cell = torch.arange(cells, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)
    # Both bounds in integers: pixel + 1 > a / cells and pixel < b / cells.
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
            replacement = _traceable(child)
            if replacement is not None:
                setattr(module, name, replacement)
    return model


def _traceable(module: nn.Module) -> nn.Module | None:
    """Traceable replacement of a module that fixes its input size, or None."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        size = module.output_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        return None if None in size else AdaptiveAvgPool(size)
    if (type(module).__module__ == 'mmdet.models.necks.fpn'
            and not module.add_extra_convs):
        return SubsampledLevels(module)
    if type(module).__module__ == 'mmseg.models.utils.wrappers':
        scale = module.scale_factor
        if isinstance(scale, float) and scale.is_integer():
            return IntegerUpsample(
                int(scale), module.mode, module.align_corners)
    return None
