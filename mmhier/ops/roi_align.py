"""RoIAlign."""
from torch import Tensor
from .computing import call_torchvision, to_compute_dtype
from .operators import make_unsupported_operator


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

    On CUDA there is no deterministic form: torch says so where it was asked
    for determinism.

    Args:
        grad_output (Tensor): (N, C, aligned_height, aligned_width).
        grad_input (Tensor): (B, C, H, W) buffer.

    The other arguments are those of the forward function.
    """
    _check_pool_mode('roi_align_backward', pool_mode)
    grad_input.add_(
        call_torchvision('_roi_align_backward',
                         *to_compute_dtype(grad_output, rois), spatial_scale,
                         aligned_height, aligned_width, *grad_input.shape,
                         sampling_ratio, aligned))


def _check_pool_mode(name: str, pool_mode: int) -> None:
    if pool_mode != 1:
        make_unsupported_operator(f"{name} with pool_mode='max'")()
