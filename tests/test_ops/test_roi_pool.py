import pytest
import torch
from mmcv.ops import roi_pool
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures('ext')


def counted(height=4, width=4):
    return torch.arange(float(height * width)).view(1, 1, height, width)


@pytest.mark.parametrize(
    'roi, expected',
    [
        ([0, 0, 0, 3, 3], [[5, 7], [13, 15]]),
        # Three pixels in two bins: both take the middle one.
        ([0, 0, 0, 2, 2], [[5, 6], [9, 10]]),
        ([0, .4, 0, 2.4, 1], [[1, 3], [5, 7]]),
        # Half of the bins are outside.
        ([0, 2, -2, 5, 1], [[0, 0], [7, 0]]),
        # No extent.
        ([0, 3, 3, 2, 2], [[0, 0], [0, 0]]),
    ])
def test_roi_pool_takes_maximum_of_touched_pixels(roi, expected):
    feats = counted().requires_grad_()
    output = roi_pool(feats, torch.tensor([roi], dtype=torch.float32), 2)
    assert output.tolist() == [[expected]]
    output.sum().backward()
    taken = [[value in sum(expected, []) and value > 0 for value in row]
             for row in counted()[0, 0].tolist()]
    assert feats.grad.gt(0)[0, 0].tolist() == taken


def test_roi_pool_scales_rois_and_picks_image():
    feats = torch.cat([counted(), -counted()])
    rois = torch.tensor([[1, 0, 0, 15, 15], [0, 0, 0, 15, 15.]])
    output = roi_pool(feats, rois, (1, 2), .25)
    assert output.tolist() == [[[[0, -2]]], [[[13, 15]]]]


def test_roi_pool_gradients_of_overlapping_rois_add_up():
    feats = counted().requires_grad_()
    rois = torch.tensor([[0, 0, 0, 3, 3.], [0, 2, 2, 3, 3]])
    roi_pool(feats, rois, 1).sum().backward()
    assert feats.grad.flatten().tolist() == [0] * 15 + [2]


def test_roi_pool_gradcheck():
    torch.manual_seed(0)
    feats = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.3, 2.1, 9.2, 7.7], [1, -3, -2, 15, 13],
                         [1, 4.4, .2, 5.1, 11.9]]).double()
    assert gradcheck(lambda x: roi_pool(x, rois, (3, 2), .5), (feats, ))


def test_roi_pool_of_no_rois():
    feats = counted().requires_grad_()
    output = roi_pool(feats, torch.zeros(0, 5), 2)
    assert output.shape == (0, 1, 2, 2)
    output.sum().backward()
    assert feats.grad.eq(0).all()
