"""RoIAlign."""
import torch
from torch import Tensor
from .computing import call_torchvision, to_compute_dtype
from .operators import make_unsupported_operator

# Regions per step of the deterministic form, to limit its memory.
CHUNK_SIZE = 64


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor,
                      argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
                      aligned_width: int, spatial_scale: float,
                      sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """Average bilinear samples in the bins of regions of interest.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (N, 5) index into the batch and corners x1, y1, x2, y2
            in the image, i.e. before ``spatial_scale``.
        output (Tensor): (N, C, aligned_height, aligned_width) buffer.
        argmax_y (Tensor): Unused: for max pooling.
        argmax_x (Tensor): Unused: for max pooling.
        aligned_height (int): Bins from top to bottom.
        aligned_width (int): Bins from left to right.
        spatial_scale (float): Of the feature map with respect to the image.
        sampling_ratio (int): Samples per bin and axis, 0: one per pixel of
            the feature map, rounded up.
        pool_mode (int): 1, average. Max pooling (0) is not offered.
        aligned (bool): Whether the centre of the first pixel is at 0.5.
    """
    _check_pool_mode('roi_align_forward', pool_mode)
    output.copy_(
        call_torchvision('roi_align', *to_compute_dtype(input, rois),
                         spatial_scale, aligned_height, aligned_width,
                         sampling_ratio, aligned))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor,
                       argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int,
                       spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``.

    torchvision's CUDA kernel adds in no fixed order; matrix products replace it
    if deterministic algorithms are asked for.

    Args:
        grad_output (Tensor): (N, C, aligned_height, aligned_width).
        grad_input (Tensor): (B, C, H, W) buffer.

    The other arguments are those of the forward function.
    """
    _check_pool_mode('roi_align_backward', pool_mode)
    grad_output, rois = to_compute_dtype(grad_output, rois)
    settings = (spatial_scale, aligned_height, aligned_width, *grad_input.shape,
                sampling_ratio, aligned)
    if (grad_output.device.type != 'cpu'
            and torch.are_deterministic_algorithms_enabled()):
        grad_input.add_(gradient_by_products(grad_output, rois, *settings))
    else:
        grad_input.add_(
            call_torchvision('_roi_align_backward', grad_output, rois,
                             *settings))


def gradient_by_products(grad: Tensor, rois: Tensor, spatial_scale: float,
                         bins_high: int, bins_wide: int, batch: int,
                         channels: int, height: int, width: int,
                         sampling_ratio: int, aligned: bool) -> Tensor:
    """Gradient of RoIAlign's input, in a fixed order of summation.

    A region is the product of its rows' weights, the map and its columns'
    weights. Arguments are those of torchvision's ``_roi_align_backward``.

    Args:
        grad (Tensor): (N, C, bins_high, bins_wide).
        rois (Tensor): (N, 5).
        spatial_scale (float): Of the map with respect to the image.
        bins_high (int): Bins from top to bottom.
        bins_wide (int): Bins from left to right.
        batch (int): B.
        channels (int): C.
        height (int): H.
        width (int): W.
        sampling_ratio (int): See :func:`roi_align_forward`.
        aligned (bool): See :func:`roi_align_forward`.

    Returns:
        Tensor: (B, C, H, W).
    """
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.)
    total = grad.new_zeros(batch, channels, height, width)
    for image in rois[:, 0].long().unique().tolist():
        (found, ) = torch.nonzero(rois[:, 0] == image, as_tuple=True)
        for part in found.split(CHUNK_SIZE):
            x1, y1, x2, y2 = corners[part].unbind(1)
            rows = _axis_weights(y1, y2, bins_high, height, sampling_ratio,
                                 aligned)
            columns = _axis_weights(x1, x2, bins_wide, width, sampling_ratio,
                                    aligned)
            # (C, H, regions * bins_wide)
            by_column = (rows.mT[:, None] @ grad[part]).permute(1, 2, 0, 3)
            total[image] += by_column.flatten(2) @ columns.flatten(0, 1)
    return total


def _axis_weights(start: Tensor, end: Tensor, bins: int, size: int,
                  sampling_ratio: int, aligned: bool) -> Tensor:
    """Weight of each pixel of an axis in each bin of regions.

    Args:
        start (Tensor): Of the regions, in pixels, (N, ).
        end (Tensor): Likewise.
        bins (int): Number of bins.
        size (int): Number of pixels.
        sampling_ratio (int): See :func:`roi_align_forward`.
        aligned (bool): See :func:`roi_align_forward`.

    Returns:
        Tensor: (N, bins, size).
    """
    length = end - start
    if not aligned:
        length = length.clamp(min=1)
    step = length / bins
    count = torch.full_like(step, sampling_ratio)
    if sampling_ratio <= 0:
        count = step.ceil().clamp(min=0)
    sample = torch.arange(int(count.max()), device=start.device)
    bin_index = torch.arange(bins, device=start.device)
    start, step, count = (t[:, None, None] for t in (start, step, count))
    share = (sample + 0.5) / count.clamp(min=1)
    places = start + (bin_index[:, None] + share) * step
    is_used = (sample < count) & (places >= -1) & (places <= size)
    places = places.clamp(0, size - 1)[..., None]
    pixels = torch.arange(size, device=start.device)
    weights = (1 - (places - pixels).abs()).clamp(min=0)
    weights = (weights * is_used[..., None]).sum(2)
    return weights / count.clamp(min=1)


def _check_pool_mode(name: str, pool_mode: int) -> None:
    if pool_mode != 1:
        make_unsupported_operator(f"{name} with pool_mode='max'")()
