"""Offsets, receptive fields and feature maps with known answers."""
import numpy as np
import pytest
import torch
from torch import nn
from mmhier.models.backbones import LIT, HATNet, LITv2
from mmhier.visualization import (
    arrange,
    draw_scale_bar,
    effective_receptive_field,
    field_square,
    mark_point,
    mean_map,
    overlay_heat,
    pca_map,
    sampling_points,
    upscale_cells,
)
from mmhier.visualization.drawing import add_title


@pytest.fixture
def lit():
    return LIT('tiny').eval()


@pytest.mark.parametrize('arch, kind', [('tiny', LIT), ('small', LITv2)])
def test_offsets_of_zero_are_the_centres_of_the_merged_tokens(arch, kind):
    levels = sampling_points(kind(arch).eval(), torch.randn(1, 3, 64, 96))
    assert [tuple(p.shape) for p in levels] == [(8, 12, 4, 2), (4, 6, 4, 2),
                                                (2, 3, 4, 2)]
    for points, stride in zip(levels, (4, 8, 16)):
        x = (torch.arange(points.shape[1] * 2) + 0.5) * stride - 0.5
        y = (torch.arange(points.shape[0] * 2) + 0.5) * stride - 0.5
        for i in range(points.shape[0]):
            for j in range(points.shape[1]):
                expected = [(x[2 * j + b], y[2 * i + a]) for a in (0, 1)
                            for b in (0, 1)]
                assert torch.equal(points[i, j], torch.tensor(expected))


def test_offsets_move_points_by_tokens_down_and_right(lit):
    """Bias (dy, dx) of each tap, in tokens of the map that is merged."""
    shifts = [(1., 0.), (0., .5), (-2., 0.), (0., -1.)]
    regular = sampling_points(lit, torch.zeros(1, 3, 64, 64))
    bias = lit.layers[1].downsample.dconv.conv_offset.bias
    bias.data.copy_(torch.tensor(shifts).flatten())
    moved = sampling_points(lit, torch.zeros(1, 3, 64, 64))
    assert torch.equal(moved[0], regular[0])
    for tap, (dy, dx) in enumerate(shifts):
        shift = (moved[1] - regular[1])[:, :, tap]
        assert (shift == torch.tensor([8 * dx, 8 * dy])).all()


def test_offsets_of_other_backbones():
    with pytest.raises(ValueError, match='HATNet merges no tokens at learned'):
        sampling_points(HATNet('tiny'), torch.zeros(1, 3, 64, 64))


class Stack(nn.Sequential):
    """Convolutions 3x3 that return their last map in a tuple."""

    def __init__(self, depth, dilation=1):
        super().__init__(*[
            nn.Conv2d(3, 3, 3, padding=dilation, dilation=dilation)
            for _ in range(depth)
        ])
        for conv in self:
            nn.init.constant_(conv.weight, 1.)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        return (super().forward(x), )


@pytest.mark.parametrize('depth, dilation', [(1, 1), (2, 1), (5, 1), (2, 3)])
def test_receptive_field_of_convolutions(depth, dilation):
    """Support: one pixel and `dilation` more to each side per layer; values:
    the binomial-like weights of that many boxes."""
    batches = [torch.rand(2, 3, 41, 41), torch.rand(1, 3, 41, 41)]
    field = effective_receptive_field(Stack(depth, dilation), batches)
    profile = np.ones(1)
    box = np.zeros(2 * dilation + 1)
    box[::dilation] = 1
    for _ in range(depth):
        profile = np.convolve(profile, box)
    expected = np.zeros((41, 41))
    reach = depth * dilation
    expected[20 - reach:21 + reach,
             20 - reach:21 + reach] = np.outer(profile, profile)
    np.testing.assert_allclose(field, expected / expected.max(), atol=1e-6)
    assert field_square(field, 1.) == (20, 20, 2 * reach + 1)


def test_square_around_the_centre_of_mass():
    field = torch.zeros(9, 15)
    field[2, 5] = 6.
    field[1:4, 4:7] += 0.5
    assert field_square(field, 0.5) == (2, 5, 1)
    assert field_square(field, 0.7) == (2, 5, 3)


def test_receptive_field_of_nothing():

    class Constant(nn.Module):

        def forward(self, x):
            return (0 * x, )

    with pytest.raises(ValueError, match='depends on no pixel'):
        effective_receptive_field(Constant(), [torch.ones(1, 3, 8, 8)])


def test_mean_map():
    features = torch.stack([torch.full((2, 3), -2.), torch.zeros(2, 3)])
    features[0, 1, 2] = 4.
    expected = torch.zeros(2, 3)
    expected[1, 2] = 1.
    assert torch.equal(mean_map(features), expected)
    assert torch.equal(mean_map(torch.ones(2, 3, 3)), torch.zeros(3, 3))


def test_principal_components_find_directions():
    """Two regions that differ in one direction alone differ in red alone."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=generator)
    direction = direction * direction[direction.abs().argmax()].sign()
    features = torch.zeros(16, 8, 8)
    features[:, :, 4:] = direction[:, None, None]
    colours = pca_map(features)
    assert colours.shape == (8, 8, 3)
    assert (colours[:, :4, 0] == 0).all() and (colours[:, 4:, 0] == 1).all()
    # The same at any scale and offset.
    torch.testing.assert_close(
        pca_map(5 * features + 3)[..., 0], colours[..., 0])


def test_cells_fill_squares():
    values = np.arange(6).reshape(2, 3)
    picture = upscale_cells(values, 4, 7, 10)
    assert picture.shape == (7, 10)
    assert (picture[:4, :4] == 0).all() and (picture[4:, 8:] == 5).all()


def test_heat_lies_over_a_gray_picture():
    picture = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    heat = np.zeros((4, 4))
    heat[1, 2] = 3.
    drawn = overlay_heat(picture, heat)
    outside = drawn[heat == 0]
    assert (outside == outside[0, 0]).all()
    # The brightest colour of the map is yellow.
    assert drawn[1, 2, 0] > 100 and drawn[1, 2, 1] > 100
    assert (overlay_heat(picture, 0 * heat) == outside[0, 0]).all()


def test_pictures_are_arranged_without_overlap():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    a, b, c = (np.full((*size, 3), colour, np.uint8)
               for size, colour in zip(((4, 5), (6, 3), (2, 9)), colours))
    sheet = arrange([[a, b], [c]])
    assert sheet.shape == (6 + 6 + 2, 9 + 6 + 3, 3)
    for picture, colour in zip((a, b, c), colours):
        assert (sheet == colour).all(2).sum() == picture.shape[0] * (
            picture.shape[1])


def test_marks_leave_the_picture_as_it_was():
    picture = np.zeros((60, 80, 3), np.uint8)
    marked = mark_point(picture, (40, 30))
    assert picture.max() == 0 and tuple(marked[30, 40]) == (255, 0, 0)
    barred = draw_scale_bar(picture, 33)
    assert picture.max() == 0
    assert ((barred[-11] == 255).all(1)).sum() == 33
    titled = add_title(picture, 'one', 'two')
    assert titled.shape == (104, 80, 3) and titled[:44].min() < 100
