"""Effective receptive field (Luo et al., arXiv 1701.04128)."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from mmhier.errors import MMHierError


def effective_receptive_field(backbone: nn.Module,
                              batches: Sequence[Tensor],
                              out_index: int = -1) -> Tensor:
    """Gradient of the central output pixel, averaged over images.

    The positive channels of the central pixel are summed up, since the sum of
    all channels behind a LayerNorm is constant (as in RepLKNet, arXiv
    2203.06717); the absolute values of the gradient are summed over the
    colours, averaged over the images and divided by their maximum (Luo et
    al., arXiv 1701.04128).

    Args:
        backbone (nn.Module): Returns maps (B, C, H, W); in eval mode.
        batches (Sequence[Tensor]): Images of one size, (B, 3, H, W) each,
            normalized.
        out_index (int): Index of the map. Defaults to -1, the last.

    Returns:
        Tensor: (H, W), from 0 to 1.

    Raises:
        MMHierError: If the output depends on no pixel.
    """
    total = torch.zeros(())
    for images in batches:
        images = images.detach().clone().requires_grad_()
        output = backbone(images)[out_index]
        height, width = output.shape[2:]
        centre = output[:, :, height // 2, width // 2].relu().sum()
        gradient, = torch.autograd.grad(centre, images)
        total = total + gradient.abs().sum((0, 1)).detach().cpu()
    if not total.max() > 0:
        raise MMHierError('the central pixel of the output depends on no pixel '
                          'of the images')
    return total / total.max()


def field_square(field: Tensor, share: float) -> tuple[int, int, int]:
    """Smallest centred square that holds a share of a field.

    Args:
        field (Tensor): (H, W), not negative.
        share (float): Such as 0.5.

    Returns:
        tuple[int, int, int]: Row and column of the field's centre of mass,
        and side of the square, in pixels, odd.
    """
    field = field.double()
    total = field.sum()
    row, column = (int(
        (field.sum(dim) @ torch.arange(n, dtype=torch.double) / total).round())
                   for dim, n in ((1, field.shape[0]), (0, field.shape[1])))
    radius = 0
    # By rounding, the sum of all may not reach the total.
    while radius < max(field.shape):
        part = field[max(row - radius, 0):row + radius + 1,
                     max(column - radius, 0):column + radius + 1]
        if part.sum() >= share * total * (1 - 1e-9):
            break
        radius += 1
    return row, column, 2 * radius + 1
