"""Windows hold the pixels they should, and merging undoes partitioning."""
import itertools

import pytest
import torch
from mmhier.models.layers import (
    merge_windows,
    partition_windows,
    window_mask,
)

SIZE = 7
PADDING = -1


def axis_pixels(length: int, dilation: int) -> torch.Tensor:
    """(classes, windows, tokens) pixel along one axis, PADDING outside."""
    windows = -(-length // (SIZE * dilation))
    pixels = torch.full((dilation, windows, SIZE), PADDING)
    for p, a, i in itertools.product(
            range(dilation), range(windows), range(SIZE)):
        pixel = dilation * (SIZE * a + i) + p
        if pixel < length:
            pixels[p, a, i] = pixel
    return pixels


def window_pixels(height: int, width: int, dilation: int) -> torch.Tensor:
    """(windows, tokens) row-major pixel number, PADDING outside the map."""
    rows = axis_pixels(height, dilation)[:, None, :, None, :, None]
    columns = axis_pixels(width, dilation)[None, :, None, :, None, :]
    pixels = (rows * width + columns).masked_fill(
        (rows == PADDING) | (columns == PADDING), PADDING)
    return pixels.reshape(-1, SIZE * SIZE)


@pytest.mark.parametrize('dilation', [1, 2, 4, 8])
def test_every_size_up_to_64(dilation):
    """Pixels, mask and inverse, each for all 4096 sizes."""
    for height, width in itertools.product(range(1, 65), repeat=2):
        size = height, width, SIZE, dilation
        numbers = torch.arange(1, height * width + 1).view(1, height, width, 1)
        windows = partition_windows(numbers, SIZE, dilation)
        pixels = window_pixels(height, width, dilation)
        assert torch.equal(windows[..., 0], pixels + 1), size
        assert torch.equal(merge_windows(windows, *size), numbers), size
        real = pixels != PADDING
        mask = window_mask(numbers, SIZE, dilation)
        if real.all():
            assert mask is None, size
        else:
            assert torch.equal(mask[:, 0, 0] == 0, real), size


@pytest.mark.parametrize('height,width,dilation', [(14, 7, 1), (15, 23, 2),
                                                   (3, 30, 4), (57, 9, 8)])
def test_token_is_the_pixel_of_the_formula(height, width, dilation):
    """Token (i, j), window (a, b), class (p, q), by plain loops."""
    x = torch.randn(2, height, width, 3)
    windows = iter(partition_windows(x, SIZE, dilation))
    rows = range(-(-height // (SIZE * dilation)))
    columns = range(-(-width // (SIZE * dilation)))
    classes = range(dilation)
    for image, p, q, a, b in itertools.product(x, classes, classes, rows,
                                               columns):
        window = next(windows).view(SIZE, SIZE, 3)
        for i, j in itertools.product(range(SIZE), repeat=2):
            y = dilation * (SIZE * a + i) + p
            z = dilation * (SIZE * b + j) + q
            inside = y < height and z < width
            wanted = image[y, z] if inside else torch.zeros(3)
            assert torch.equal(window[i, j], wanted)
    assert next(windows, None) is None


@pytest.mark.parametrize('height,width,dilation', [(14, 28, 2), (9, 17, 4)])
def test_inverse_keeps_batch_channels_and_gradient(height, width, dilation):
    x = torch.randn(3, height, width, 5, requires_grad=True)
    weight = torch.randn_like(x)
    windows = partition_windows(x, SIZE, dilation)
    merged = merge_windows(windows, height, width, SIZE, dilation)
    assert torch.equal(merged, x)
    (merged * weight).sum().backward()
    assert torch.equal(x.grad, weight)
