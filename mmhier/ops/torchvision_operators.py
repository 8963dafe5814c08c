"""Functions of ``mmcv._ext``, computed by torchvision and torch.

Each has the name, the arguments and the convention of the compiled function
in mmcv (``mmcv/ops/csrc/pytorch``): results go into buffers that mmcv's
Python code allocates, and autograd sees none of it. In half precision all
of them compute in float32.
"""
import functools
import multiprocessing
from typing import Any, Callable, NoReturn, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from torch import Tensor
from .source import compile_commands, describe_operators


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float,
        offset: int) -> Tensor:
    """Keep the best of boxes that overlap by more than a threshold.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2.
        scores (Tensor): (N, ).
        iou_threshold (float): A box is dropped where its IoU with a kept one
            is greater.
        offset (int): Added to widths and heights: 0, or 1 where x2 and y2
            are the last pixel inside.

    Returns:
        Tensor: Indices of the kept boxes, best first; among equal scores,
        first come first.
    """
    dtype = _compute_dtype(boxes, scores)
    boxes = boxes.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    if dtype == torch.float32:
        # torchvision compares a float32 IoU with a float64 threshold, where
        # an IoU of exactly 0.6 is greater than 0.6.
        iou_threshold = float(np.float32(iou_threshold))
    return _call_torchvision('nms', boxes, scores.to(dtype), iou_threshold)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float,
            sigma: float, min_score: float, method: int,
            offset: int) -> Tensor:
    """Lower the scores of boxes that overlap a better one.

    `Soft-NMS <https://arxiv.org/abs/1704.04503>`_ in the order of mmcv's
    loop, so that equal scores come out in the same order.

    Args:
        boxes (Tensor): (N, 4) corners, on the CPU.
        scores (Tensor): (N, ).
        dets (Tensor): (N, 5) buffer for the kept boxes and their scores.
        iou_threshold (float): The IoU from which on naive and linear act.
        sigma (float): Width of the Gaussian.
        min_score (float): Boxes whose score falls below are dropped.
        method (int): 0 naive, 1 linear, 2 gaussian.
        offset (int): Added to widths and heights, 0 or 1.

    Returns:
        Tensor: (K, ) indices of the kept boxes, best first; the first K rows
        of ``dets`` are theirs.
    """
    dtype = _compute_dtype(boxes, scores)
    rows = torch.cat([boxes.to(dtype), scores.to(dtype)[:, None]], 1).numpy()
    x1, y1, x2, y2 = rows[:, :4].T
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    # mmcv compares in the dtype of the boxes.
    iou_threshold, min_score = map(rows.dtype.type, (iou_threshold, min_score))
    order = np.arange(len(rows))
    i = 0
    while i < len(order):
        best = i + rows[order[i:], 4].argmax()
        order[[i, best]] = order[[best, i]]
        box, rest = order[i], order[i + 1:]
        width = np.minimum(x2[box], x2[rest]) - np.maximum(x1[box], x1[rest])
        height = np.minimum(y2[box], y2[rest]) - np.maximum(y1[box], y1[rest])
        overlap = (
            np.maximum(width + offset, 0) * np.maximum(height + offset, 0))
        union = areas[box] + areas[rest] - overlap
        # Without the mask two boxes of no area would have an IoU of 0 / 0.
        iou = np.divide(
            overlap, union, out=np.zeros_like(union), where=union != 0)
        rows[rest, 4] *= _soft_nms_weight(iou, iou_threshold, sigma, method)
        kept = _fill_gaps_from_end(rest, rows[rest, 4] >= min_score)
        order = np.concatenate([order[:i + 1], kept])
        i += 1
    dets[:len(order)] = torch.from_numpy(rows[order]).to(dets)
    return torch.from_numpy(order)


def _soft_nms_weight(iou: np.ndarray, iou_threshold: Union[float, np.floating],
                     sigma: float, method: int) -> np.ndarray:
    if method == 2:
        return np.exp(-(iou * iou).astype(np.float64) / sigma).astype(
            iou.dtype)
    reduced = 0 if method == 0 else 1 - iou
    return np.where(iou >= iou_threshold, reduced, 1).astype(iou.dtype)


def _fill_gaps_from_end(items: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Drop items, each gap filled by the last kept item behind it."""
    count = int(keep.sum())
    kept = items[:count].copy()
    kept[~keep[:count]] = items[count:][keep[count:]][::-1]
    return kept


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
    dtype = _compute_dtype(input, rois)
    output.copy_(
        _call_torchvision('roi_align', input.to(dtype), rois.to(dtype),
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
    dtype = _compute_dtype(grad_output, rois)
    grad_input.add_(
        _call_torchvision('_roi_align_backward', grad_output.to(dtype),
                          rois.to(dtype), spatial_scale, aligned_height,
                          aligned_width, *grad_input.shape, sampling_ratio,
                          aligned).to(grad_input.dtype))


def _check_pool_mode(name: str, pool_mode: int) -> None:
    if pool_mode != 1:
        make_unsupported_operator(f"{name} with pool_mode='max'")()


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Compute the focal loss of independent logits.

    `Focal loss <https://arxiv.org/abs/1708.02002>`_ with the logarithm of
    the sigmoid. mmcv's CUDA kernel takes the logarithm of a rounded
    probability, which is wrong for logits beyond 16 on the wrong side.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N, ) class of each row; a number outside [0, C) is
            background.
        weight (Tensor): (C, ) weight of the rows of each class, or empty.
            Background has weight 1.
        output (Tensor): (N, C) buffer for the loss.
        gamma (float): Exponent that lessens easy examples.
        alpha (float): Weight of positives, 1 - alpha is that of negatives.
    """
    sign, scale = _focal_sign_and_scale(input, target, weight, alpha)
    logit = sign * input
    loss = F.logsigmoid(logit).mul_(torch.sigmoid(-logit).pow_(gamma))
    output.copy_(loss.mul_(scale).neg_())


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Compute the derivative of :func:`sigmoid_focal_loss_forward`.

    Args:
        grad_input (Tensor): (N, C) buffer for the derivative of each loss
            by its logit.

    The other arguments are those of the forward function.
    """
    sign, scale = _focal_sign_and_scale(input, target, weight, alpha)
    logit = sign * input
    p, q = torch.sigmoid(logit), torch.sigmoid(-logit)
    slope = F.logsigmoid(logit).mul_(p).mul_(gamma).sub_(q)
    grad_input.copy_(slope.mul_(q.pow_(gamma)).mul_(scale).mul_(sign))


def _focal_sign_and_scale(input: Tensor, target: Tensor, weight: Tensor,
                          alpha: float) -> Tuple[Tensor, Tensor]:
    """Return 1 at positives and -1 at negatives, and the loss's weight."""
    dtype = _compute_dtype(input)
    classes = torch.arange(input.size(1), device=input.device)
    positive = target[:, None] == classes
    sign = positive.to(dtype).mul_(2).sub_(1)
    scale = torch.full_like(sign, 1 - alpha).masked_fill_(positive, alpha)
    if weight.numel():
        row_weight = torch.where(positive, weight.to(dtype), 0).sum(1)
        scale *= torch.where(positive.any(1), row_weight, 1)[:, None]
    return sign, scale


def get_compiler_version() -> str:
    """Say that there was no compiler, where mmcv reports its environment."""
    return f'none: operators from torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """Say that there was no compiler, where mmcv reports its environment."""
    return get_compiler_version()


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest dtype of some tensors, at least float32."""
    return functools.reduce(torch.promote_types,
                            (tensor.dtype for tensor in tensors),
                            torch.float32)


def _call_torchvision(name: str, tensor: Tensor, *args: Any) -> Tensor:
    try:
        return getattr(torch.ops.torchvision, name)(tensor, *args)
    except (AttributeError, NotImplementedError) as error:
        raise NotImplementedError(
            f'torchvision {torchvision.__version__} has no operator '
            f'{name!r} for device {str(tensor.device)!r}. Install the '
            f'torchvision that was built for torch {torch.__version__}, or '
            'compile mmcv:\n' + _indented_compile_commands()) from error


def _indented_compile_commands() -> str:
    return '\n'.join(f'    {command}' for command in compile_commands())


def make_unsupported_operator(name: str) -> Callable:
    """Make the function that stands for an operator without counterpart.

    Args:
        name (str): What is asked for, e.g. ``'deform_conv_forward'``.

    Returns:
        Callable: Raises NotImplementedError with ``name`` and the commands
        that compile mmcv, whatever its arguments.
    """

    def raise_unsupported(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'{name} needs compiled mmcv: this mmcv has no compiled '
            'operators, and mmhier takes only NMS, soft NMS, RoIAlign and '
            'sigmoid focal loss from torchvision. To compile it (10 to 30 '
            'minutes; needs a C++ compiler, for CUDA tensors also nvcc of '
            'the CUDA version of torch, and FORCE_CUDA=1 in the environment '
            'where no GPU is visible):\n' + _indented_compile_commands())

    return raise_unsupported


@functools.lru_cache(maxsize=None)
def _log_operators_once() -> None:
    if multiprocessing.parent_process() is None and is_main_process():
        print_log(describe_operators(), logger='current')


def _as_compiled(function: Callable) -> Callable:
    """Hide a function from autograd and announce its first use."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _log_operators_once()
        with torch.no_grad():
            return function(*args, **kwargs)

    return wrapper


OPERATORS = {
    function.__name__: _as_compiled(function)
    for function in (nms, softnms, roi_align_forward, roi_align_backward,
                     sigmoid_focal_loss_forward, sigmoid_focal_loss_backward)
}
OPERATORS.update({
    function.__name__: function
    for function in (get_compiler_version, get_compiling_cuda_version)
})
