import math

import pytest
import torch
from mmcv.ops import (
    BorderAlign,
    DeformRoIPoolPack,
    border_align,
    deform_roi_pool,
    roi_align,
    roi_align_rotated,
)
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures('ext')


def ramp(size=8):
    """10 * row + column."""
    line = torch.arange(float(size))
    return (10 * line[:, None] + line)[None, None]


def random_feats(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(
        *shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize('angle, clockwise, expected', [
    (0, False, [[24, 26], [44, 46]]),
    (90, False, [[44, 24], [46, 26]]),
    (90, True, [[26, 46], [24, 44]]),
    (180, True, [[46, 44], [26, 24]]),
])
def test_roi_align_rotated_turns_bins(angle, clockwise, expected):
    """Bins around row 3, column 5, whose centres are a pixel from there."""
    rois = torch.tensor([[0, 11, 7, 8, 8, math.radians(angle)]])
    output = roi_align_rotated(ramp(), rois, 2, .5, 2, True, clockwise)
    expected = torch.tensor(expected, dtype=torch.float32)
    assert torch.allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_rotated_without_angle_is_roi_align(aligned, sampling_ratio):
    feats = random_feats(2, 3, 8, 9)
    boxes = torch.tensor([[0, -3, -2, 7, 9], [1, 2, 1, 5, 14],
                          [0, 9, 9, 20, 13]]).double()
    rois = torch.cat([
        boxes[:, :1], (boxes[:, 1:3] + boxes[:, 3:]) / 2,
        boxes[:, 3:] - boxes[:, 1:3], boxes[:, :1] * 0
    ], 1)
    output = roi_align_rotated(feats, rois, (3, 2), .5, sampling_ratio, aligned)
    expected = roi_align(feats, boxes, (3, 2), .5, sampling_ratio, 'avg',
                         aligned)
    assert torch.allclose(output, expected)
    upstream = torch.rand_like(output)
    grad, = torch.autograd.grad(output, feats, upstream)
    assert torch.allclose(grad,
                          torch.autograd.grad(expected, feats, upstream)[0])


def test_roi_align_rotated_gradcheck():
    rois = torch.tensor([[1, 6, 5, 9, 4, .7], [0, 2, 9, 5, 12, -2]]).double()
    assert gradcheck(
        lambda x: roi_align_rotated(x, rois, (3, 2), .5, 0, True, True),
        (random_feats(2, 2, 6, 7), ))


def test_roi_align_rotated_refuses_negative_size():
    rois = torch.tensor([[0, 3, 3, -1, 2, 0.]])
    with pytest.raises(ValueError, match='rois .* have a negative size'):
        roi_align_rotated(ramp(), rois, 2, 1., 2)


def test_deform_roi_pool_moves_bins_by_fractions_of_the_region():
    """Bins of 2 x 2 pixels; x before y; gamma times width and height."""
    rois = torch.tensor([[0, 2, 4, 6, 8.]])
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 0, 0, 1] = 5
    offset[0, 1, 1, 0] = -2.5
    output = deform_roi_pool(ramp(), rois, offset, 2, .5, 2, .1)
    still = deform_roi_pool(ramp(), rois, None, 2, .5, 2, .1)
    assert torch.allclose(still, torch.tensor([[[[21., 22], [31, 32]]]]))
    assert torch.allclose(output, torch.tensor([[[[21., 23], [26, 32]]]]))


def test_deform_roi_pool_pack_starts_as_roi_align():
    torch.manual_seed(0)
    feats = random_feats(2, 3, 8, 9).float()
    rois = torch.tensor([[1, 2.2, 1, 13.5, 14], [0, 3, 2, 9, 10]])
    pack = DeformRoIPoolPack((3, 2), 3, 16, .5, 0)
    assert torch.allclose(
        pack(feats, rois), roi_align(feats, rois, (3, 2), .5, 0, 'avg', True))


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_deform_roi_pool_gradcheck(sampling_ratio):
    rois = torch.tensor([[1, 2.2, 1.3, 9.5, 9], [0, 3, 2, 8.7, 7.1]]).double()
    offset = random_feats(2, 2, 3, 2)
    assert gradcheck(
        lambda x, o: deform_roi_pool(x, rois, o, (3, 2), .5, sampling_ratio),
        (random_feats(2, 2, 6, 7), offset))


def test_border_align_takes_maximum_along_each_side():
    """One pixel per group of channels has a value, on one side's samples."""
    feats = torch.zeros(1, 8, 5, 6)
    box = torch.tensor([[[1., 1, 5, 3]]])
    feats[0, 0, 1, 3] = 1  # top, middle sample
    feats[0, 1, 1, 2] = 1  # top, between samples
    feats[0, 2, 2, 1] = 2  # left
    feats[0, 4, 3, 5] = 3  # bottom, first sample
    feats[0, 6, 1, 5] = 4  # right, last sample
    feats[0, 7, 2, 3] = 9  # inside
    feats.requires_grad_()
    output = BorderAlign(2)(feats, box)
    assert output.tolist() == [[[[1, 2, 3, 4]], [[0, 0, 0, 0]]]]
    output[:, 0].sum().backward()
    assert feats.grad[0, ::2].nonzero().tolist() == [[0, 1, 3], [1, 2, 1],
                                                     [2, 3, 5], [3, 1, 5]]


def test_border_align_interpolates():
    output = border_align(ramp().expand(1, 4, 8, 8).contiguous(),
                          torch.tensor([[[.5, 1.25, 2.5, 3]]]), 3)
    assert output.flatten().tolist() == pytest.approx([15, 30.5, 32.5, 32.5])


def test_border_align_gradcheck():
    boxes = random_feats(2, 5, 4).detach() * 5
    assert gradcheck(lambda x: border_align(x, boxes, 3),
                     (random_feats(2, 8, 5, 6), ))
