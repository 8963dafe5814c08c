import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match

# The IoU of the first two is 0.6; the third is apart.
BOXES = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 6], [20, 20, 30, 30]])
SCORES = torch.tensor([.9, .8, .7])

pytestmark = pytest.mark.usefixtures('ext')


@pytest.mark.parametrize('iou_threshold, kept', [
    (0.5, [0, 2]),
    (0.59, [0, 2]),
    (0.6, [0, 1, 2]),
    (0.9, [0, 1, 2]),
])
def test_nms_drops_only_above_threshold(iou_threshold, kept):
    dets, inds = nms(BOXES, SCORES, iou_threshold)
    assert inds.tolist() == kept
    assert torch.equal(dets, torch.cat([BOXES, SCORES[:, None]], 1)[kept])


@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_iou_equal_to_threshold(tenths):
    """In float32 as in float64, where 0.6 and float32(0.6) differ."""
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, tenths]])
    for dtype in (torch.float32, torch.float64):
        _, inds = nms(boxes.to(dtype), SCORES[:2].to(dtype), tenths / 10)
        assert inds.tolist() == [0, 1]


def test_nms_returns_best_first():
    _, inds = nms(BOXES.flip(0), SCORES.flip(0), 0.9)
    assert inds.tolist() == [2, 1, 0]


def test_nms_keeps_first_of_equal_scores():
    boxes = BOXES[[2, 0, 0, 1, 2]]
    _, inds = nms(boxes, torch.full((5, ), .5), 0.5)
    assert inds.tolist() == [0, 1]


def test_nms_dropped_box_drops_nothing():
    boxes = torch.tensor([[0., 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    _, inds = nms(boxes, SCORES, 0.4)
    assert inds.tolist() == [0, 2]


@pytest.mark.parametrize('offset, kept', [(0, [0, 1]), (1, [0])])
def test_nms_offset_counts_last_pixel(offset, kept):
    """10 x 10 pixels that share 5 x 10: IoU 1/3, without offset 36/126."""
    boxes = torch.tensor([[0., 0, 9, 9], [5, 0, 14, 9]])
    _, inds = nms(boxes, SCORES[:2], 0.3, offset=offset)
    assert inds.tolist() == kept


@pytest.mark.parametrize('offset, kept', [(0, [0, 1]), (1, [0])])
def test_nms_boxes_of_one_pixel(offset, kept):
    boxes = torch.tensor([[3., 3, 3, 3], [3, 3, 3, 3]])
    _, inds = nms(boxes, SCORES[:2], 0.5, offset=offset)
    assert inds.tolist() == kept


def test_nms_score_threshold_is_exclusive_and_max_num_limits():
    scores = torch.tensor([.25, .9, .5])
    assert nms(BOXES, scores, .9, score_threshold=.25)[1].tolist() == [1, 2]
    assert nms(BOXES, scores, .9, score_threshold=.2)[1].tolist() == [1, 2, 0]
    assert nms(
        BOXES, scores, .9, score_threshold=.25, max_num=1)[1].tolist() == [1]


def test_nms_takes_and_returns_numpy():
    dets, inds = nms(BOXES.numpy(), SCORES.numpy(), 0.5)
    assert isinstance(dets, np.ndarray) and isinstance(inds, np.ndarray)
    assert inds.tolist() == [0, 2] and dets.shape == (2, 5)


@pytest.mark.parametrize('boxes_dtype, scores_dtype', [
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float64, torch.float64),
    (torch.float32, torch.float16),
    (torch.bfloat16, torch.float32),
])
def test_nms_dtypes(boxes_dtype, scores_dtype):
    dets, inds = nms(BOXES.to(boxes_dtype), SCORES.to(scores_dtype), 0.5)
    assert inds.tolist() == [0, 2]
    assert torch.equal(dets[:, :4].float(), BOXES[[0, 2]])


def test_nms_under_autocast():
    with torch.autocast('cpu', torch.bfloat16):
        assert nms(BOXES, SCORES, 0.5)[1].tolist() == [0, 2]


def test_nms_of_no_boxes():
    dets, inds = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert inds.shape == (0, ) and inds.dtype == torch.int64


def test_batched_nms_separates_classes():
    boxes, scores = BOXES[[0, 0, 0]], torch.tensor([.7, .9, .8])
    dets, keep = batched_nms(boxes, scores, torch.tensor([0, 0, 1]),
                             dict(iou_threshold=.5))
    assert keep.tolist() == [1, 2]
    assert torch.equal(dets[:, :4], boxes[keep])
    assert dets[:, 4].tolist() == scores[keep].tolist()


@pytest.mark.parametrize('by_config', [False, True])
def test_batched_nms_class_agnostic(by_config):
    config = dict(iou_threshold=.5)
    if by_config:
        config['class_agnostic'] = True
    _, keep = batched_nms(
        BOXES[[0, 0, 0]],
        torch.tensor([.7, .9, .8]),
        torch.tensor([0, 0, 1]),
        config,
        class_agnostic=not by_config)
    assert keep.tolist() == [1]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('nms_type', ['nms', 'soft_nms'])
def test_batched_nms_split_equals_joint(nms_type, offset):
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 40, (60, 2), generator=generator).float()
    sizes = torch.randint(5, 30, (60, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + sizes], 1)
    scores = torch.rand(60, generator=generator)
    classes = torch.randint(0, 3, (60, ), generator=generator)
    config = dict(type=nms_type, iou_threshold=.4, offset=offset)
    joint, keep = batched_nms(boxes, scores, classes, config)
    split, keep_split = batched_nms(boxes, scores, classes,
                                    dict(config, split_thr=1))
    assert 10 < len(keep) <= 60
    assert torch.equal(keep, keep_split)
    assert torch.allclose(joint, split)
    limited, keep_limited = batched_nms(boxes, scores, classes,
                                        dict(config, split_thr=1, max_num=5))
    assert torch.equal(keep_limited, keep[:5])
    assert torch.equal(limited, split[:5])


def test_batched_nms_soft_lowers_scores_within_class():
    dets, keep = batched_nms(BOXES[[0, 1, 1]], SCORES, torch.tensor([0, 0, 1]),
                             dict(type='soft_nms', iou_threshold=.3))
    assert keep.tolist() == [0, 2, 1]
    assert torch.allclose(dets[:, 4], torch.tensor([.9, .7, .8 * .4]))


def test_batched_nms_without_config_sorts():
    _, keep = batched_nms(BOXES, SCORES.flip(0), torch.zeros(3), None)
    assert keep.tolist() == [2, 1, 0]


def test_batched_nms_of_no_boxes():
    dets, keep = batched_nms(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0),
        dict(iou_threshold=.5, class_agnostic=True))
    assert dets.shape == (0, 5) and keep.shape == (0, )


@pytest.mark.parametrize('iou_threshold, groups', [
    (.5, [[3, 0, 1], [2]]),
    (.6, [[3, 0, 1], [2]]),
    (.61, [[3, 0], [1], [2]]),
])
def test_nms_match_groups_boxes_with_their_best(iou_threshold, groups):
    """From the threshold on, unlike nms, which keeps boxes at it."""
    dets = torch.cat([BOXES, SCORES[:, None]], 1)
    dets = torch.cat([dets, dets[:1]])
    dets[3, 4] = 1
    matched = nms_match(dets, iou_threshold)
    assert [group.tolist() for group in matched] == groups
    matched = nms_match(dets.numpy(), iou_threshold)
    assert [group.tolist() for group in matched] == groups


def line(start, length, x):
    """A straight lane of CLRNet; ``start`` counts strips."""
    return [0, 0, start / 71, 0, length, *[float(x)] * 72]


LINES = torch.tensor([
    line(0, 72, 14),
    line(10, 20, 10),
    line(5, 10, 11),
    line(40, 30, 13.5),
    line(12, 5, 12)
])
LINE_SCORES = torch.tensor([.5, .9, .6, .8, .7])


@pytest.mark.parametrize(
    'threshold, top_k, kept, parents',
    [
        # Lines 3 and 0 are .5 apart, 1 and 2 as well as 4 and 2 1, 1 and 4 2.
        (.5, 9, [1, 3, 4, 2, 0], [5, 1, 4, 2, 3]),
        (.6, 9, [1, 3, 4, 2], [2, 1, 4, 2, 3]),
        (1, 9, [1, 3, 4, 2], [2, 1, 4, 2, 3]),
        (1.01, 9, [1, 3, 4], [2, 1, 3, 2, 3]),
        (2.01, 9, [1, 3], [2, 1, 1, 2, 1]),
        (.6, 2, [1, 3], [2, 1, 0, 2, 0]),
    ])
def test_line_nms_drops_lines_close_to_a_better_one(ext, threshold, top_k, kept,
                                                    parents):
    """Without mmcv's function: mmcv 2.1.0 has none."""
    keep, count, parent = ext.line_nms_forward(LINES, LINE_SCORES, threshold,
                                               top_k)
    assert keep.tolist() == kept + [0] * (5 - len(kept))
    assert count == len(kept)
    assert parent.tolist() == parents


def test_line_nms_of_no_lines(ext):
    keep, count, parent = ext.line_nms_forward(LINES[:0], LINE_SCORES[:0], 1.,
                                               9)
    assert keep.shape == parent.shape == (0, ) and count == 0
