"""Max pooling in regions of interest."""
import torch
from torch import Tensor
from .computing import to_compute_dtype


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor,
                     argmax: Tensor, pooled_height: int, pooled_width: int,
                     spatial_scale: float) -> None:
    """Take the maximum in the bins of regions of interest.

    Unlike torchvision's, mmcv's bins begin and end at fractions of a pixel
    and take all pixels that they touch.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (N, 5) index into the batch and corners x1, y1, x2, y2
            in the image, i.e. before ``spatial_scale``, x2 and y2 being the
            last pixel inside.
        output (Tensor): (N, C, pooled_height, pooled_width) buffer; 0 for a
            bin outside of the map.
        argmax (Tensor): Buffer of the same shape for the index into H * W of
            the maximum, -1 where there is none.
        pooled_height (int): Bins from top to bottom.
        pooled_width (int): Bins from left to right.
        spatial_scale (float): Of the feature map with respect to the image.
    """
    feats, rois = to_compute_dtype(input, rois)
    height, width = feats.shape[2:]
    begin = rois[:, 1:3] * spatial_scale
    extent = (rois[:, 3:5] + 1) * spatial_scale - begin
    extent = extent * (extent > 0).all(1, keepdim=True)
    columns, column_valid = _bin_pixels(begin[:, 0], extent[:, 0], pooled_width,
                                        width)
    rows, row_valid = _bin_pixels(begin[:, 1], extent[:, 1], pooled_height,
                                  height)
    output.zero_()
    argmax.fill_(-1)
    for n, image in enumerate(rois[:, 0].long().tolist()):
        # (pooled_height, pooled_width, rows of a bin, columns of a bin).
        index = rows[n, :, None, :, None] * width + columns[n, :, None]
        valid = row_valid[n, :, None, :, None] & column_valid[n, :, None]
        index, valid = index.flatten(2), valid.flatten(2)
        if not index.size(2):
            continue
        values = feats[image].flatten(1)[:, index]
        values = values.masked_fill_(~valid, -torch.inf)
        best, at = values.max(3)
        found = valid.any(2)
        output[n] = torch.where(found, best, 0)
        at = index.expand_as(values).gather(3, at[..., None])[..., 0]
        argmax[n] = torch.where(found, at, -1)


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor,
                      grad_input: Tensor, pooled_height: int, pooled_width: int,
                      spatial_scale: float) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input``.

    Args:
        grad_output (Tensor): (N, C, pooled_height, pooled_width).
        grad_input (Tensor): (B, C, H, W) buffer.

    The other arguments are those of the forward function.
    """
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(
        channels, device=rois.device)
    index = plane[:, :, None, None] * height * width + argmax
    found = argmax >= 0
    grad_input.view(-1).index_add_(0, index[found], grad_output[found])


def _bin_pixels(begin: Tensor, extent: Tensor, bins: int,
                size: int) -> tuple[Tensor, Tensor]:
    """Return the pixels of each bin along an axis and which of them count.

    Both are (N, bins, P), where P is the number of pixels of the largest bin.
    """
    bin_size = extent / bins
    number = torch.arange(bins, device=begin.device)
    first = (number * bin_size[:, None] + begin[:, None]).floor_()
    last = ((number + 1) * bin_size[:, None] + begin[:, None]).ceil_()
    first, last = first.clamp_(0, size).long(), last.clamp_(0, size).long()
    # A region without extent has no pixel.
    last = torch.where(extent[:, None] > 0, last, first)
    longest = int((last - first).max()) if last.numel() else 0
    pixels = first[..., None] + torch.arange(longest, device=begin.device)
    return pixels.clamp(max=size - 1), pixels < last[..., None]
