"""Where LIT's and LITv2's deformable token merging samples."""

import torch
from torch import Tensor
from mmhier.errors import MMHierError
from mmhier.models.backbones import LIT, LITv2
from mmhier.models.layers.deformable_merging import DeformConv


@torch.no_grad()
def sampling_points(backbone: LIT | LITv2, images: Tensor) -> list[Tensor]:
    """Points of the image at which each merging reads its input map.

    Args:
        backbone (LIT | LITv2): In eval mode.
        images (Tensor): (1, 3, H, W), normalized.

    Returns:
        list[Tensor]: For each merging, (rows, columns, 4, 2): x and y, in
        pixels of the image, of the four taps of every merged token. With
        offsets of zero they are the centres of the tokens that it merges.

    Raises:
        ValueError: If the backbone is of another family.
    """
    if not isinstance(backbone, (LIT, LITv2)):
        raise MMHierError(f'{type(backbone).__name__} merges no tokens at '
                          'learned offsets, of the backbones of mmhier only '
                          'LIT and LITv2 do')
    offsets: list[Tensor] = []
    convs = [m for m in backbone.modules() if isinstance(m, DeformConv)]
    handles = [
        conv.conv_offset.register_forward_hook(
            lambda _, inputs, output: offsets.append(output[0].float().cpu()))
        for conv in convs
    ]
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    points = []
    for level, offset in enumerate(offsets):
        stride = backbone.all_strides[level]
        rows, columns = offset.shape[1:]
        # (dy, dx) for the taps (0, 0), (0, 1), (1, 0), (1, 1), in tokens.
        shift = offset.view(2, 2, 2, rows, columns).permute(3, 4, 0, 1, 2)
        tap = torch.arange(2)
        y = 2 * torch.arange(rows)[:, None] + tap
        x = 2 * torch.arange(columns)[:, None] + tap
        y = y[:, None, :, None] + shift[..., 0]
        x = x[None, :, None, :] + shift[..., 1]
        centre = torch.stack((x, y), -1).flatten(2, 3)
        points.append((centre + 0.5) * stride - 0.5)
    return points
