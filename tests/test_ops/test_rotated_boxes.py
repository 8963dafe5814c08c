import math

import pytest
import torch
from mmcv.ops import box_iou_rotated, nms_rotated

pytestmark = pytest.mark.usefixtures('ext')

SQUARE = [0, 0, 2, 2, 0]
EIGHTH = math.pi / 4


@pytest.mark.parametrize(
    'box, shared',
    [
        (SQUARE, 4),
        ([1, 0, 2, 2, 0], 2),
        ([1.5, -1.5, 2, 2, 0], .25),
        ([2, 0, 2, 2, 0], 0),
        ([3, 3, 2, 2, EIGHTH], 0),
        ([0, 0, 2, 2, math.pi / 2], 4),
        ([0, 0, 4, 1, math.pi / 2], 2),
        # An octagon: the square less four corners with legs 2 - sqrt(2).
        ([0, 0, 2, 2, EIGHTH], 4 - 2 * (2 - math.sqrt(2))**2),
        # A corner of it on the square's centre and two on its corners.
        ([1, 0, math.sqrt(2), math.sqrt(2), EIGHTH], 1),
        ([.2, .1, .5, .3, 1], .15),
    ])
def test_shared_area_of_two_boxes(box, shared):
    boxes1, boxes2 = torch.tensor([SQUARE]), torch.tensor([box])
    area = box[2] * box[3]
    iof = box_iou_rotated(boxes1.float(), boxes2.float(), 'iof')
    iou = box_iou_rotated(boxes1.float(), boxes2.float())
    assert iof.item() == pytest.approx(shared / 4, abs=1e-6)
    assert iou.item() == pytest.approx(shared / (4 + area - shared), abs=1e-6)


@pytest.mark.parametrize('quarters', [0, 1, 2])
def test_box_turned_onto_itself_is_the_same(quarters):
    """Without a tolerance rounding opens corners, as it does in mmcv."""
    torch.manual_seed(0)
    boxes = 100 * torch.rand(200, 5, dtype=torch.float64) + 1
    turned = boxes.clone()
    turned[:, 4] += quarters * math.pi / 2
    if quarters == 1:
        turned[:, 2:4] = boxes[:, 2:4].flip(1)
    iou = box_iou_rotated(boxes, turned, aligned=True)
    assert torch.allclose(iou, torch.ones_like(iou), rtol=1e-9)


def test_angles_turn_clockwise_unless_told():
    """The lower right corner of a bar that is turned by an eighth."""
    boxes = torch.tensor([[0, 0, 4, .2, EIGHTH], [1, 1, .5, .5, 0]])
    assert box_iou_rotated(boxes[:1], boxes[1:]) > 0
    assert box_iou_rotated(boxes[:1], boxes[1:], clockwise=False) == 0


def test_box_without_area_overlaps_nothing():
    boxes = torch.tensor([[0., 0, 2, 0, 0], SQUARE])
    assert box_iou_rotated(boxes[:1], boxes).tolist() == [[0, 0]]


def test_pairs_are_computed_in_parts(ext, monkeypatch):
    from mmhier.ops import rotated_boxes
    torch.manual_seed(0)
    boxes = 10 * torch.rand(7, 5)
    expected = box_iou_rotated(boxes, boxes[:3])
    monkeypatch.setattr(rotated_boxes, 'PAIRS_AT_ONCE', 6)
    assert torch.equal(box_iou_rotated(boxes, boxes[:3]), expected)
    assert box_iou_rotated(boxes, boxes[:0]).shape == (7, 0)
    assert box_iou_rotated(boxes[:0], boxes).shape == (0, 7)


@pytest.mark.parametrize('iou_threshold, kept', [
    (.2, [2, 0]),
    (1 / 3, [2, 0]),
    (.34, [2, 1, 0]),
])
def test_nms_rotated_drops_from_the_threshold_on(iou_threshold, kept):
    """IoU 1/3 of boxes 1 and 2; box 0 is apart."""
    boxes = torch.tensor([[9., 9, 2, 2, 1], [0, 1, 2, 2, 0], SQUARE])
    scores = torch.tensor([.3, .6, .9])
    dets, inds = nms_rotated(boxes, scores, iou_threshold)
    assert inds.tolist() == kept
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])
