"""Overlap and suppression of rotated boxes."""
import torch
from torch import Tensor

PAIRS_AT_ONCE = 2**16
# Relative to the size of the boxes: closes corners that rounding opens.
TOLERANCE = 1e-9


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor,
                    mode_flag: int, aligned: bool) -> None:
    """Compute the overlap of rotated boxes, in float64.

    Args:
        boxes1 (Tensor): (N, 5) centre x and y, width, height and angle in
            radians, clockwise.
        boxes2 (Tensor): (M, 5).
        ious (Tensor): (N * M, ) buffer, or (N, ) if ``aligned``.
        mode_flag (int): 0 to divide the intersection by the union, 1 by the
            area of the first box.
        aligned (bool): Whether each of ``boxes1`` is compared with the one
            box of ``boxes2`` at its place.
    """
    if aligned:
        ious.copy_(_pairwise_overlap(boxes1, boxes2, mode_flag))
        return
    rows = max(PAIRS_AT_ONCE // max(len(boxes2), 1), 1)
    for part, buffer in zip(
            boxes1.split(rows),
            ious.view(len(boxes1), len(boxes2)).split(rows)):
        first = part.repeat_interleave(len(boxes2), 0)
        second = boxes2.repeat(len(part), 1)
        overlap = _pairwise_overlap(first, second, mode_flag)
        buffer.copy_(overlap.view_as(buffer))


def nms_rotated(dets: Tensor, scores: Tensor, order: Tensor,
                dets_sorted: Tensor, labels: Tensor, iou_threshold: float,
                multi_label: bool) -> Tensor:
    """Keep the best of rotated boxes that overlap by a threshold.

    Like mmcv's it compares boxes of all classes. mmcv's CUDA kernel drops
    only those above the threshold, its code for CPUs and this one also those
    at it.

    Args:
        dets (Tensor): (N, 5) centre x and y, width, height and angle in
            radians, clockwise; (N, 6) with the label if ``multi_label``.
        scores (Tensor): Unused: ``order`` follows from it.
        order (Tensor): (N, ) indices of the boxes, best first.
        dets_sorted (Tensor): Unused: ``dets`` in this order.
        labels (Tensor): Unused.
        iou_threshold (float): A box is dropped where its IoU with a kept one
            is at least this.
        multi_label (bool): Whether ``dets`` has labels.

    Returns:
        Tensor: Indices of the kept boxes, best first.
    """
    boxes = dets[:, :5]
    keep = [order[:0]]
    while len(order):
        best, rest = order[:1], order[1:]
        keep.append(best)
        iou = _pairwise_overlap(boxes[best].expand(len(rest), 5), boxes[rest],
                                0)
        order = rest[iou.to(boxes.dtype) < iou_threshold]
    return torch.cat(keep)


def _pairwise_overlap(boxes1: Tensor, boxes2: Tensor, mode: int) -> Tensor:
    """Return the overlap of N pairs of boxes; 0 where one has no area."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    areas1, areas2 = boxes1[:, 2:4].prod(1), boxes2[:, 2:4].prod(1)
    overlap = _intersection_area(boxes1, boxes2)
    base = areas1 if mode == 1 else areas1 + areas2 - overlap
    return torch.where((areas1 > 0) & (areas2 > 0), overlap / base, 0)


def _intersection_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the area that N pairs of boxes share.

    Corners of the shared polygon are corners of a box inside of the other
    one and crossings of two sides. In the order of their angle around their
    mean they give the area.
    """
    origin = (boxes1[:, None, :2] + boxes2[:, None, :2]) / 2
    corners1, corners2 = _corners(boxes1) - origin, _corners(boxes2) - origin
    crossings, crossed = _cross_sides(corners1, corners2)
    points = torch.cat([corners1, corners2, crossings], 1)
    valid = torch.cat([
        _is_inside(corners1, corners2),
        _is_inside(corners2, corners1), crossed
    ], 1)
    count = valid.sum(1, keepdim=True)
    points = points * valid[..., None]
    points = points - (points.sum(1) / count.clamp(min=1))[:, None]
    # Points that do not count take the place of one that does.
    first = valid.int().argmax(1)[:, None, None].expand(-1, -1, 2)
    points = torch.where(valid[..., None], points, points.gather(1, first))
    order = torch.atan2(points[..., 1], points[..., 0]).argsort(1)
    points = points.gather(1, order[..., None].expand_as(points))
    area = _cross(points, points.roll(-1, 1)).sum(1) / 2
    return torch.where(count[:, 0] > 2, area, 0)


def _corners(boxes: Tensor) -> Tensor:
    """Return (N, 4, 2) corners, one after another around the box."""
    cos, sin = boxes[:, 4].cos() / 2, boxes[:, 4].sin() / 2
    right = torch.stack([cos, sin], 1) * boxes[:, 2:3]
    down = torch.stack([-sin, cos], 1) * boxes[:, 3:4]
    centre = boxes[:, :2]
    return torch.stack([
        centre - right - down, centre + right - down, centre + right + down,
        centre - right + down
    ], 1)


def _is_inside(points: Tensor, corners: Tensor) -> Tensor:
    """Whether (N, P, 2) points are inside of N boxes or at their border."""
    inside = []
    for side in (corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]):
        along = ((points - corners[:, :1]) * side[:, None]).sum(2)
        length = (side * side).sum(1, keepdim=True)
        slack = TOLERANCE * length
        inside.append((along >= -slack) & (along <= length + slack))
    return inside[0] & inside[1]


def _cross_sides(corners1: Tensor, corners2: Tensor) -> tuple:
    """Return (N, 16, 2) crossings of all sides, and which of them exist."""
    start1, start2 = corners1[:, :, None], corners2[:, None]
    side1 = (corners1.roll(-1, 1) - corners1)[:, :, None]
    side2 = (corners2.roll(-1, 1) - corners2)[:, None]
    between = start2 - start1
    determinant = _cross(side1, side2)
    parallel = determinant.abs() <= TOLERANCE * (
        side1.norm(dim=-1) * side2.norm(dim=-1))
    determinant = determinant.masked_fill(parallel, 1)
    along1 = _cross(between, side2) / determinant
    along2 = _cross(between, side1) / determinant
    exists = ~parallel
    for along in (along1, along2):
        exists &= (along >= -TOLERANCE) & (along <= 1 + TOLERANCE)
    crossings = start1 + along1[..., None] * side1
    return crossings.flatten(1, 2), exists.flatten(1, 2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
