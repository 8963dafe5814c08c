from functools import partial

import pytest
import torch
from mmcv.ops import RoIAlign, roi_align
from torch import nn
from torch.autograd import gradcheck
from mmhier.ops import roi_align as module

pytestmark = pytest.mark.usefixtures('ext')


def impulse(size=4):
    """One at row 1, column 1, else zero."""
    image = torch.zeros(1, 1, size, size)
    image[0, 0, 1, 1] = 1
    return image


def ramp(size=8):
    """10 * row + column."""
    line = torch.arange(float(size))
    return (10 * line[:, None] + line)[None, None]


def rois_of(*rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned, expected', [
    (True, [[26.5, 28.5], [46.5, 48.5]]),
    (False, [[32., 34.], [52., 54.]]),
])
def test_roi_align_reads_ramp_at_bin_centres(aligned, expected, sampling_ratio):
    """Bin centres at x 2, 4 and y 3, 5, half a pixel less where aligned."""
    output = roi_align(ramp(), rois_of([0, 1, 2, 5, 6]), (2, 2), 1.0,
                       sampling_ratio, 'avg', aligned)
    assert torch.allclose(output, torch.tensor([[expected]]))


@pytest.mark.parametrize('aligned, sampling_ratio, expected', [
    (False, 2, 1 / 4),
    (False, 0, 1 / 16),
    (True, 2, 1 / 16),
    (True, 0, 1 / 16),
])
def test_roi_align_samples_impulse(aligned, sampling_ratio, expected):
    """One bin over 4 x 4 pixels. Samples per axis: not aligned 1, 3 or .5,
    1.5, 2.5, 3.5; aligned half a pixel less."""
    output = roi_align(impulse(), rois_of([0, 0, 0, 4, 4]), 1, 1.0,
                       sampling_ratio, 'avg', aligned)
    assert output.shape == (1, 1, 1, 1)
    assert output.item() == pytest.approx(expected)


def test_roi_align_scales_rois_and_picks_image():
    feats = torch.cat([ramp(), -ramp()])
    rois = rois_of([1, 4, 8, 20, 24], [0, 4, 8, 20, 24])
    output = RoIAlign((2, 2), spatial_scale=.25, sampling_ratio=2)(feats, rois)
    expected = torch.tensor([[26.5, 28.5], [46.5, 48.5]])
    assert torch.allclose(output[:, 0], torch.stack([-expected, expected]))


def test_roi_align_rows_before_columns():
    output = roi_align(ramp(), rois_of([0, 1, 2, 5, 6]), (1, 2), 1.0, 2)
    assert torch.allclose(output, torch.tensor([[[[36.5, 38.5]]]]))


@pytest.mark.parametrize('roi, expected', [
    ([0, -9, -9, -5, -5], 0.),
    ([0, 9, 9, 13, 13], 0.),
    ([0, -4, 0, 4, 4], .5),
    ([0, -1, -1, 1, 1], 1.),
])
def test_roi_align_out_of_image_counts_as_zero(roi, expected):
    """Samples at -2 and 2 in the third roi: one of them is out. In the
    fourth at -.5 and .5: up to one pixel outside, the border's value."""
    feats = torch.ones(1, 1, 4, 4, requires_grad=True)
    output = roi_align(feats, rois_of(roi), 1, 1.0, 2, 'avg', False)
    assert output.item() == expected
    output.backward()
    assert feats.grad.sum() == expected


def test_roi_align_of_no_rois():
    feats = torch.rand(2, 3, 8, 8, requires_grad=True)
    output = roi_align(feats, torch.zeros(0, 5), (7, 7), .25)
    assert output.shape == (0, 3, 7, 7)
    output.sum().backward()
    assert torch.equal(feats.grad, torch.zeros_like(feats))


def test_roi_align_roi_of_no_area():
    output = roi_align(ramp(), rois_of([0, 3, 3, 3, 3]), 1, 1.0, 2)
    assert output.item() == pytest.approx(27.5)


def test_roi_align_gradient_goes_to_sampled_pixel():
    feats = torch.zeros(1, 1, 4, 4, requires_grad=True)
    rois = rois_of([0, 0, 0, 2, 2])
    output = roi_align(feats, rois, 1, 1.0, 1, 'avg', False)
    output.backward(torch.full_like(output, 3))
    assert torch.equal(feats.grad, 3 * impulse())


def test_roi_align_gradients_of_overlapping_rois_add_up():
    feats = torch.zeros(2, 1, 4, 4, requires_grad=True)
    rois = rois_of([0, 0, 0, 2, 2], [0, 0, 0, 2, 2], [1, 0, 0, 2, 2])
    roi_align(feats, rois, 1, 1.0, 1, 'avg', False).sum().backward()
    assert torch.equal(feats.grad, torch.cat([2 * impulse(), impulse()]))


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_gradcheck(sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    feats = torch.rand(
        2,
        2,
        6,
        7,
        dtype=torch.float64,
        generator=generator,
        requires_grad=True)
    rois = rois_of([0, 1.3, 2.1, 9.2, 7.7], [1, -3, -2, 15, 13],
                   [1, 4.4, 0.2, 5.1, 11.9]).double()
    assert gradcheck(
        lambda x: roi_align(x, rois,
                            (3, 2), .5, sampling_ratio, 'avg', aligned),
        (feats, ))


def test_operators_fill_buffers_in_place(ext):
    rois, no_argmax = rois_of([0, 0, 0, 2, 2]), torch.zeros(0)
    arguments = dict(
        aligned_height=1,
        aligned_width=1,
        spatial_scale=1.0,
        sampling_ratio=1,
        pool_mode=1,
        aligned=False)
    output = torch.full((1, 1, 1, 1), 5.)
    assert ext.roi_align_forward(impulse(), rois, output, no_argmax, no_argmax,
                                 **arguments) is None
    assert output.item() == 1
    grad_input = torch.ones(1, 1, 4, 4)
    assert ext.roi_align_backward(
        torch.ones(1, 1, 1, 1), rois, no_argmax, no_argmax, grad_input,
        **arguments) is None
    assert torch.equal(grad_input, 1 + impulse())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_in_half_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    exact = torch.rand(1, 4, 8, 8, generator=generator).to(dtype).float()
    rois = rois_of([0, 1, 2, 5, 6], [0, 0, 0, 8, 8])
    expected = roi_align(exact, rois, (3, 3), 1.0)
    half = exact.to(dtype).requires_grad_()
    output = roi_align(half, rois.to(dtype), (3, 3), 1.0)
    assert output.dtype == dtype
    assert torch.equal(output, expected.to(dtype))
    output.float().sum().backward()
    assert half.grad.dtype == dtype
    assert half.grad.sum().item() == pytest.approx(2 * 4 * 9, rel=1e-2)


def test_roi_align_under_autocast():
    """As mmdet's RoI extractors call it: rois in the features' dtype."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3, padding=1)
    rois = rois_of([0, 1, 2, 5, 6])
    expected = roi_align(conv(ramp()), rois, (2, 2), 1.0)
    with torch.autocast('cpu', torch.bfloat16):
        feats = conv(ramp())
        output = roi_align(feats, rois.type_as(feats), (2, 2), 1.0)
        assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected, rtol=2e-2, atol=.1)
    output.float().sum().backward()
    assert conv.weight.grad.abs().sum() > 0


def test_roi_align_reads_channels_last():
    feats = torch.rand(2, 4, 8, 8, requires_grad=True)
    rois = rois_of([0, 1, 2, 5, 6], [1, 0, 0, 8, 8])
    last = feats.detach().to(memory_format=torch.channels_last)
    last.requires_grad_()
    outputs = [roi_align(x, rois, (3, 3), 1.0) for x in (feats, last)]
    assert torch.equal(*outputs)
    for output in outputs:
        (output * torch.arange(9.).view(3, 3)).sum().backward()
    assert torch.allclose(feats.grad, last.grad)


def test_roi_align_max_pooling_is_refused():
    with pytest.raises(
            NotImplementedError,
            match="roi_align_forward with pool_mode='max'"
            ' needs compiled mmcv'):
        roi_align(ramp(), rois_of([0, 1, 2, 5, 6]), (2, 2), 1.0, 2, 'max')


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 3])
@pytest.mark.parametrize('chunk_size', [2, 64])
def test_gradient_by_products_is_that_of_the_kernel(aligned, sampling_ratio,
                                                    chunk_size, monkeypatch):
    """For regions within, across and outside of the maps, and empty ones."""
    monkeypatch.setattr(module, 'CHUNK_SIZE', chunk_size)
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    corners = draw(12, 2) * 60 - 15
    rois = torch.cat(
        [torch.arange(12)[:, None] % 3, corners, corners + draw(12, 2) * 40], 1)
    rois[3:6, 1:] = torch.tensor([[4., 4, 4, 4], [90, 90, 99, 99],
                                  [-3, -3, 80, 70]])
    rois[rois[:, 0] == 2, 0] = 0
    shape = 3, 5, 9, 13
    grad = draw(12, 5, 3, 4)
    settings = 0.25, 3, 4, *shape, sampling_ratio, aligned
    found = module.gradient_by_products(grad, rois, *settings)
    expected = torch.ops.torchvision._roi_align_backward(grad, rois, *settings)
    assert found.shape == shape and not found[2].any()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('is_strict', [True, False])
def test_gradient_by_products_where_determinism_was_asked_for(
        is_strict, monkeypatch):
    """On other devices than CPUs, so not here."""
    calls = []
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled',
                        lambda: is_strict)
    monkeypatch.setattr(
        module, 'gradient_by_products', lambda grad, rois, *settings: calls.
        append(settings) or grad.new_zeros(settings[3:7]))
    monkeypatch.setattr(
        module, 'call_torchvision',
        lambda name, grad, rois, *settings: grad.new_zeros(settings[3:7]))
    for device in ('cpu', 'meta'):
        grad_input = torch.zeros(1, 2, 4, 4, device=device)
        module.roi_align_backward(
            torch.zeros(1, 2, 3, 3, device=device),
            torch.zeros(1, 5, device=device), None, None, grad_input, 3, 3, 1.,
            0, 1, True)
    assert calls == [(1., 3, 3, 1, 2, 4, 4, 0, True)] * is_strict
