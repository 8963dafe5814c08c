import math

import numpy as np
import pytest
import torch
from mmcv.ops import soft_nms

# The IoU of the first two is 0.6; the third is apart.
BOXES = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 6], [20, 20, 30, 30]])
SCORES = torch.tensor([.9, .8, .7])

pytestmark = pytest.mark.usefixtures('ext')


@pytest.mark.parametrize('method, order, scores', [
    ('naive', [0, 2], [.9, .7]),
    ('linear', [0, 2, 1], [.9, .7, .8 * (1 - .6)]),
    ('gaussian', [0, 2, 1], [.9, .7, .8 * math.exp(-.36 / .5)]),
])
def test_soft_nms_known_answers(method, order, scores):
    dets, inds = soft_nms(BOXES, SCORES, 0.3, sigma=0.5, method=method)
    assert inds.tolist() == order
    assert torch.equal(dets[:, :4], BOXES[order])
    assert torch.allclose(dets[:, 4], torch.tensor(scores))


@pytest.mark.parametrize('method, order', [
    ('naive', [0, 2]),
    ('linear', [0, 2]),
    ('gaussian', [0, 2, 1]),
])
def test_soft_nms_drops_below_min_score(method, order):
    """The second box gets 0, 0.32 and 0.389."""
    _, inds = soft_nms(
        BOXES, SCORES, 0.3, sigma=.5, min_score=.35, method=method)
    assert inds.tolist() == order


def test_soft_nms_keeps_zero_scores_with_min_score_zero():
    dets, inds = soft_nms(BOXES, SCORES, 0.3, min_score=0, method='naive')
    assert inds.tolist() == [0, 2, 1]
    assert dets[2, 4] == 0


def test_soft_nms_acts_at_the_threshold_itself():
    _, inds = soft_nms(BOXES, SCORES, 0.6, method='naive')
    assert inds.tolist() == [0, 2]
    _, inds = soft_nms(BOXES, SCORES, 0.61, method='naive')
    assert inds.tolist() == [0, 1, 2]


def test_soft_nms_scores_fall_once_per_better_box():
    boxes = BOXES[[0, 1, 1]]
    dets, inds = soft_nms(boxes, SCORES, 0.3, method='linear')
    assert inds.tolist() == [0, 1]
    assert torch.allclose(dets[:, 4], torch.tensor([.9, .8 * .4]))
    dets, inds = soft_nms(boxes, SCORES, 0.3, min_score=0, method='linear')
    assert inds.tolist() == [0, 1, 2]
    assert dets[2, 4] == 0


@pytest.mark.parametrize('dropped, order', [(1, [0, 3, 2]), (2, [0, 4, 3])])
def test_soft_nms_fills_gaps_from_the_end(dropped, order):
    """mmcv puts the last box where it drops one: here the later of the two
    boxes with the same score comes first."""
    apart = BOXES[2] + torch.tensor([40., 40, 40, 40])
    boxes = torch.stack([BOXES[0], *[BOXES[1]] * dropped, BOXES[2], apart])
    scores = torch.tensor([.9, *[.8] * dropped, .5, .5])
    _, inds = soft_nms(boxes, scores, 0.3, method='naive')
    assert inds.tolist() == order


@pytest.mark.parametrize('offset, order', [(0, [0, 1]), (1, [0])])
def test_soft_nms_offset_counts_last_pixel(offset, order):
    """10 x 10 pixels that share 5 x 10: IoU 1/3, without offset 36/126."""
    boxes = torch.tensor([[0., 0, 9, 9], [5, 0, 14, 9]])
    _, inds = soft_nms(boxes, SCORES[:2], .3, method='naive', offset=offset)
    assert inds.tolist() == order


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_boxes_of_no_area_do_not_overlap(method):
    boxes = torch.tensor([[3., 3, 3, 3], [3, 3, 3, 3]])
    dets, inds = soft_nms(boxes, SCORES[:2], 0.3, method=method)
    assert inds.tolist() == [0, 1]
    assert torch.equal(dets[:, 4], SCORES[:2])


@pytest.mark.parametrize('dtype',
                         [torch.float16, torch.bfloat16, torch.float64])
def test_soft_nms_dtypes(dtype):
    dets, inds = soft_nms(BOXES.to(dtype), SCORES.to(dtype), 0.3)
    assert dets.dtype == dtype and inds.tolist() == [0, 2, 1]
    assert torch.allclose(
        dets[:, 4].float(), torch.tensor([.9, .7, .32]), atol=2e-3)


def test_soft_nms_of_no_boxes():
    dets, inds = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert inds.shape == (0, ) and inds.dtype == torch.int64


def iou(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0) * max(height, 0)
    area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset)
                      for x in (a, b))
    return overlap / (area_a + area_b - overlap)


def reference_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method,
                       offset):
    """Bodla et al., figure 2, one box at a time, in float64."""
    left = [(score, index) for index, score in enumerate(scores)]
    kept = []
    while left:
        score, best = max(left)
        left.remove((score, best))
        kept.append((best, score))
        lowered = []
        for score, index in left:
            overlap = iou(boxes[best], boxes[index], offset)
            if method == 'gaussian':
                score *= math.exp(-overlap**2 / sigma)
            elif overlap >= iou_threshold:
                score *= 0 if method == 'naive' else 1 - overlap
            if score >= min_score:
                lowered.append((score, index))
        left = lowered
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_equals_slow_reference(method, offset):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (80, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (80, 2))], 1)
    scores = rng.uniform(0, 1, 80)
    dets, inds = soft_nms(
        boxes, scores, .3, .5, .05, method=method, offset=offset)
    expected = reference_soft_nms(boxes, scores, .3, .5, .05, method, offset)
    assert 5 < len(inds) < 80
    assert inds.tolist() == [index for index, _ in expected]
    assert np.allclose(dets[:, 4], [score for _, score in expected])
