"""Pooling of bilinear samples: rotated, deformed, and along borders."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from .computing import gradients, to_compute_dtype

Positions = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]


def roi_align_rotated_forward(input: Tensor, rois: Tensor, output: Tensor,
                              pooled_height: int, pooled_width: int,
                              spatial_scale: float, sampling_ratio: int,
                              aligned: bool, clockwise: bool) -> None:
    """Average bilinear samples in the bins of rotated regions of interest.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (N, 6) index into the batch, centre x and y, width and
            height in the image, i.e. before ``spatial_scale``, and angle in
            radians.
        output (Tensor): (N, C, pooled_height, pooled_width) buffer.
        pooled_height (int): Bins from top to bottom.
        pooled_width (int): Bins from left to right.
        spatial_scale (float): Of the feature map with respect to the image.
        sampling_ratio (int): Samples per bin and axis, 0: one per pixel of
            the feature map, rounded up.
        aligned (bool): Whether the centre of the first pixel is at 0.5;
            without, regions are at least one pixel wide and high.
        clockwise (bool): Whether the angle turns clockwise.

    Raises:
        ValueError: If a region has a negative size and ``aligned`` is set.
    """
    feats, rois = to_compute_dtype(input, rois)
    output.copy_(
        _pool_rotated(feats, rois, pooled_height, pooled_width, spatial_scale,
                      sampling_ratio, aligned, clockwise))


def roi_align_rotated_backward(grad_output: Tensor, rois: Tensor,
                               grad_input: Tensor, pooled_height: int,
                               pooled_width: int, spatial_scale: float,
                               sampling_ratio: int, aligned: bool,
                               clockwise: bool) -> None:
    """Compute the gradient of :func:`roi_align_rotated_forward`.

    Args:
        grad_output (Tensor): (N, C, pooled_height, pooled_width).
        grad_input (Tensor): (B, C, H, W) buffer.

    The other arguments are those of the forward function.
    """
    feats, rois = to_compute_dtype(torch.zeros_like(grad_input), rois)
    gradient, = gradients(
        lambda feats:
        _pool_rotated(feats, rois, pooled_height, pooled_width, spatial_scale,
                      sampling_ratio, aligned, clockwise), [feats], grad_output)
    grad_input.copy_(gradient)


def _pool_rotated(feats: Tensor, rois: Tensor, pooled_height: int,
                  pooled_width: int, spatial_scale: float, sampling_ratio: int,
                  aligned: bool, clockwise: bool) -> Tensor:
    centre = rois[:, 1:3] * spatial_scale - (.5 if aligned else 0)
    size = rois[:, 3:5] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    elif (size < 0).any():
        raise ValueError('rois of roi_align_rotated have a negative size')
    angle = -rois[:, 5] if clockwise else rois[:, 5]

    def positions(rows: Tensor, grid_h: int,
                  grid_w: int) -> tuple[Tensor, Tensor]:
        x0, y0 = centre[rows, :, None, None].unbind(1)
        width, height = size[rows, :, None, None].unbind(1)
        cos = angle[rows, None, None].cos()
        sin = angle[rows, None, None].sin()
        y = height * (_sample_fractions(pooled_height, grid_h, rois) - .5)
        x = width * (_sample_fractions(pooled_width, grid_w, rois) - .5)
        y = y.transpose(1, 2)
        return y * cos - x * sin + y0, y * sin + x * cos + x0

    return _average_samples(feats, rois[:, 0].long(), size,
                            (pooled_height, pooled_width), sampling_ratio,
                            positions)


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor,
                            output: Tensor, pooled_height: int,
                            pooled_width: int, spatial_scale: float,
                            sampling_ratio: int, gamma: float) -> None:
    """Average bilinear samples in shifted bins of regions of interest.

    `Deformable RoI pooling <https://arxiv.org/abs/1703.06211>`_.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (N, 5) index into the batch and corners x1, y1, x2, y2
            in the image, i.e. before ``spatial_scale``.
        offset (Tensor): (N, 2, pooled_height, pooled_width), x before y, as a
            fraction of the region's size, or empty.
        output (Tensor): (N, C, pooled_height, pooled_width) buffer.
        pooled_height (int): Bins from top to bottom.
        pooled_width (int): Bins from left to right.
        spatial_scale (float): Of the feature map with respect to the image.
        sampling_ratio (int): Samples per bin and axis, 0: one per pixel of
            the feature map, rounded up.
        gamma (float): Factor of the offsets.
    """
    feats, rois, offset = to_compute_dtype(input, rois, offset)
    output.copy_(
        _pool_deformed(feats, offset if offset.numel() else None, rois,
                       (pooled_height, pooled_width), spatial_scale,
                       sampling_ratio, gamma))


def deform_roi_pool_backward(grad_output: Tensor, input: Tensor, rois: Tensor,
                             offset: Tensor, grad_input: Tensor,
                             grad_offset: Tensor, pooled_height: int,
                             pooled_width: int, spatial_scale: float,
                             sampling_ratio: int, gamma: float) -> None:
    """Compute the gradients of :func:`deform_roi_pool_forward`.

    Samples within a pixel outside of the map have the value of its border,
    hence no gradient by the offset across it; mmcv's CUDA kernel gives them
    that of the pixels inside.

    Args:
        grad_output (Tensor): (N, C, pooled_height, pooled_width).
        grad_input (Tensor): (B, C, H, W) buffer.
        grad_offset (Tensor): Buffer of the shape of ``offset``.

    The other arguments are those of the forward function.
    """
    feats, rois, offset = to_compute_dtype(input, rois, offset)

    def pool(feats: Tensor, offset: Tensor | None = None) -> Tensor:
        return _pool_deformed(feats, offset, rois,
                              (pooled_height, pooled_width), spatial_scale,
                              sampling_ratio, gamma)

    if offset.numel():
        by_feats, by_offset = gradients(pool, [feats, offset], grad_output)
        grad_offset.copy_(by_offset)
    else:
        by_feats, = gradients(pool, [feats], grad_output)
    grad_input.copy_(by_feats)


def _pool_deformed(feats: Tensor, offset: Tensor | None, rois: Tensor,
                   output_size: tuple[int, int], spatial_scale: float,
                   sampling_ratio: int, gamma: float) -> Tensor:
    begin = rois[:, 1:3] * spatial_scale - .5
    size = rois[:, 3:5] * spatial_scale - .5 - begin

    def positions(rows: Tensor, grid_h: int,
                  grid_w: int) -> tuple[Tensor, Tensor]:
        corner = begin[rows, :, None, None]
        extent = size[rows, :, None, None]
        if offset is not None:
            shift = gamma * extent * offset[rows]
            corner = corner + shift.repeat_interleave(
                grid_h, 2).repeat_interleave(grid_w, 3)
        x0, y0 = corner.unbind(1)
        width, height = extent.unbind(1)
        y = height * _sample_fractions(output_size[0], grid_h, rois)
        x = width * _sample_fractions(output_size[1], grid_w, rois)
        y, x = y.transpose(1, 2) + y0, x + x0
        return torch.broadcast_tensors(y, x)

    return _average_samples(feats, rois[:, 0].long(), size, output_size,
                            sampling_ratio, positions)


def _sample_fractions(bins: int, samples: int, like: Tensor) -> Tensor:
    """Return (1, 1, bins * samples) positions in a region, from 0 to 1."""
    number = torch.arange(bins * samples, dtype=like.dtype, device=like.device)
    return ((number + .5) / (bins * samples))[None, None]


def _average_samples(feats: Tensor, images: Tensor, size: Tensor,
                     output_size: tuple[int, int], sampling_ratio: int,
                     positions: Positions) -> Tensor:
    """Average the samples of each bin.

    Args:
        feats (Tensor): (B, C, H, W).
        images (Tensor): (N, ) index into the batch of each region.
        size (Tensor): (N, 2) width and height of each region.
        output_size (tuple[int, int]): Bins from top to bottom and from left
            to right.
        sampling_ratio (int): Samples per bin and axis, 0: one per pixel.
        positions (Callable): Gives y and x of all samples of some regions,
            each (n, bins * samples from top to bottom, the same from left to
            right), from the regions' indices and the samples per bin from top
            to bottom and from left to right.

    Returns:
        Tensor: (N, C, *output_size).
    """
    bins = size.new_tensor(output_size)
    grid = (size.flip(1) / bins).ceil().clamp(min=0).long()
    if sampling_ratio > 0:
        grid = torch.full_like(grid, sampling_ratio)
    output = feats.new_zeros(len(images), feats.size(1), *output_size)
    # Regions of one image with one grid are sampled together.
    kinds, kind = torch.cat([images[:, None], grid], 1).unique(
        dim=0, return_inverse=True)
    for number, (image, grid_h, grid_w) in enumerate(kinds.tolist()):
        if not grid_h * grid_w:
            continue
        rows = (kind == number).nonzero()[:, 0]
        y, x = positions(rows, grid_h, grid_w)
        samples = _sample(feats[image:image + 1],
                          y.flatten(0, 1)[None],
                          x.flatten(0, 1)[None])
        bins_of_samples = samples.reshape(-1, len(rows), output_size[0], grid_h,
                                          output_size[1], grid_w)
        output[rows] = bins_of_samples.mean((3, 5)).transpose(0, 1)
    return output


def _sample(feats: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample (B, C, H, W) feats bilinearly at (B, h, w) positions.

    Up to one pixel outside of the map a sample has the value of its border,
    farther outside zero.
    """
    height, width = feats.shape[2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    samples = F.grid_sample(
        feats, grid, padding_mode='border', align_corners=False)
    return samples * inside[:, None]


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor,
                         argmax_idx: Tensor, pool_size: int) -> None:
    """Take the maximum of bilinear samples along each side of boxes.

    `BorderDet <https://arxiv.org/abs/2007.11056>`_.

    Args:
        input (Tensor): (B, 4 * C, H, W) the channels for the top side, then
            those for left, bottom and right.
        boxes (Tensor): (B, K, 4) corners x1, y1, x2, y2 on the map.
        output (Tensor): (B, C, K, 4) buffer: top, left, bottom, right.
        argmax_idx (Tensor): Buffer of the same shape for the number of the
            sample, counted from x1, y1 for top and left and from x2, y2 for
            bottom and right.
        pool_size (int): Number of samples on a side, less one.
    """
    feats, boxes = to_compute_dtype(input, boxes)
    maximum, index = _sample_borders(feats, boxes, pool_size).max(4)
    output.copy_(maximum.permute(0, 2, 3, 1))
    argmax_idx.copy_(index.permute(0, 2, 3, 1))


def border_align_backward(grad_output: Tensor, boxes: Tensor,
                          argmax_idx: Tensor, grad_input: Tensor,
                          pool_size: int) -> None:
    """Compute the gradient of :func:`border_align_forward`.

    Args:
        grad_output (Tensor): (B, C, K, 4).
        grad_input (Tensor): (B, 4 * C, H, W) buffer.

    The other arguments are those of the forward function.
    """
    feats, boxes = to_compute_dtype(torch.zeros_like(grad_input), boxes)
    index = argmax_idx.permute(0, 3, 1, 2)[..., None].long()
    gradient, = gradients(
        lambda feats: _sample_borders(feats, boxes, pool_size).gather(4, index),
        [feats],
        grad_output.permute(0, 3, 1, 2)[..., None])
    grad_input.copy_(gradient)


def _sample_borders(feats: Tensor, boxes: Tensor, pool_size: int) -> Tensor:
    """Return (B, 4, C, K, pool_size + 1) samples."""
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    step = torch.arange(
        pool_size + 1, dtype=boxes.dtype, device=boxes.device) / pool_size
    along_x, along_y = step * (x2 - x1), step * (y2 - y1)
    still = torch.zeros_like(along_x)
    x = torch.stack([x1 + along_x, x1 + still, x2 - along_x, x2 + still], 1)
    y = torch.stack([y1 + still, y1 + along_y, y2 + still, y2 - along_y], 1)
    samples = _sample(
        feats.unflatten(1, (4, -1)).flatten(0, 1), y.flatten(0, 1),
        x.flatten(0, 1))
    return samples.unflatten(0, (-1, 4))
