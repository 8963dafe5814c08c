"""Non-maximum suppression of boxes and of lines."""
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou
from .computing import call_torchvision, to_compute_dtype


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
    boxes, scores = to_compute_dtype(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    if boxes.dtype == torch.float32:
        # torchvision compares a float32 IoU with a float64 threshold, where
        # an IoU of exactly 0.6 is greater than 0.6.
        iou_threshold = float(np.float32(iou_threshold))
    return call_torchvision('nms', boxes, scores, iou_threshold)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float,
            sigma: float, min_score: float, method: int, offset: int) -> Tensor:
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
    boxes, scores = to_compute_dtype(boxes, scores)
    rows = torch.cat([boxes, scores[:, None]], 1).numpy()
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


def _soft_nms_weight(iou: np.ndarray, iou_threshold: float | np.floating,
                     sigma: float, method: int) -> np.ndarray:
    if method == 2:
        return np.exp(-(iou * iou).astype(np.float64) / sigma).astype(iou.dtype)
    reduced = 0 if method == 0 else 1 - iou
    return np.where(iou >= iou_threshold, reduced, 1).astype(iou.dtype)


def _fill_gaps_from_end(items: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Drop items, each gap filled by the last kept item behind it."""
    count = int(keep.sum())
    kept = items[:count].copy()
    kept[~keep[:count]] = items[count:][keep[count:]][::-1]
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes with the better box that suppresses them.

    Args:
        dets (Tensor): (N, 5) corners x1, y1, x2, y2 and score.
        iou_threshold (float): A box joins the group of a better one where
            their IoU is at least this.

    Returns:
        list[list[int]]: Indices of each group, best first.
    """
    boxes, scores = dets[:, :4], dets[:, 4]
    order = scores.argsort(descending=True, stable=True)
    groups = []
    while len(order):
        best, rest = order[:1], order[1:]
        joined = box_iou(boxes[best], boxes[rest])[0] >= iou_threshold
        groups.append([best.item(), *rest[joined].tolist()])
        order = rest[~joined]
    return groups


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float,
                     top_k: int) -> list[Tensor]:
    """Keep the best of lines whose mean distance is below a threshold.

    mmcv 2.3.6's CUDA kernel compares lines at their place in ``boxes`` with
    lines at their place in the order of the scores, so that it drops lines
    of unsorted input for being equal to themselves. Here both are sorted,
    as in `CLRNet <https://arxiv.org/abs/2203.10350>`_.

    Args:
        boxes (Tensor): (N, 5 + K) lines: the start as a fraction of the
            strips in column 2, the number of points in column 4, and the x
            of each of K points.
        scores (Tensor): (N, ).
        thresh (float): A line is dropped where its mean distance to a better
            one, over the points of both, is smaller.
        top_k (int): The most lines to keep.

    Returns:
        list[Tensor]: (N, ) indices of the kept lines, best first, filled up
        with zeros; their number; (N, ) rank from 1 of the kept line that each
        line is or was last found close to, 0 for none.
    """
    num_points = boxes.size(1) - 5
    points = torch.arange(num_points, device=boxes.device)
    lines = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    start = (lines[:, 2] * (num_points - 1) + .5).long()
    end = (start + lines[:, 4].long() - 1).clamp_(max=num_points - 1)
    order = scores.argsort(descending=True, stable=True)
    parents = torch.zeros_like(order)
    dropped = torch.zeros_like(order, dtype=torch.bool)
    kept: list[int] = []
    for rank, best in enumerate(order.tolist()):
        if len(kept) == top_k:
            break
        if dropped[best]:
            continue
        kept.append(best)
        rest = order[rank + 1:]
        first = torch.maximum(start[best], start[rest])
        last = torch.minimum(end[best], end[rest])
        shared = (points >= first[:, None]) & (points <= last[:, None])
        distance = (lines[best, 5:] - lines[rest, 5:]).abs_().mul_(shared)
        close = (first >= 0) & (last >= first) & (
            distance.sum(1) < thresh * (last - first + 1))
        dropped[rest[close]] = True
        parents[rest[close]] = parents[best] = len(kept)
    keep = torch.zeros_like(order)
    keep[:len(kept)] = order.new_tensor(kept)
    return [keep, order.new_tensor(len(kept)), parents]
