import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2dPack,
    deform_conv2d,
    modulated_deform_conv2d,
)
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures('ext')


def random_case(batch=2, channels=4, samples=9, size=(6, 5), dtype=None):
    """Return input, offsets away from whole pixels, masks and weight."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(
            *shape, generator=generator, dtype=dtype).requires_grad_()

    # Where a sample is at a whole pixel the output has no derivative.
    offset = rand(batch, 2 * samples, *size).detach().mul_(.8).add_(.1)
    whole = torch.randint(-2, 3, offset.shape, generator=generator)
    return (rand(batch, channels, *size), (offset + whole).requires_grad_(),
            rand(batch, samples, *size), rand(6, channels, 3, 3))


@pytest.mark.parametrize('pack', [DeformConv2dPack, ModulatedDeformConv2dPack])
def test_fresh_layer_is_a_convolution(pack):
    """Its offsets are zero, and each mask is one half."""
    torch.manual_seed(0)
    layer = pack(4, 6, 3, stride=2, padding=1, dilation=2, groups=2)
    x = torch.rand(2, 4, 9, 8)
    expected = F.conv2d(x, layer.weight, None, 2, 1, 2, 2)
    if pack is ModulatedDeformConv2dPack:
        expected = expected / 2 + layer.bias[:, None, None]
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_offsets_are_rows_before_columns():
    x = torch.arange(20.).view(1, 1, 4, 5)
    offset = torch.zeros(1, 2, 4, 5)
    offset[0, :, 1, 1] = torch.tensor([1.5, .25])
    offset[0, :, 3, 4] = torch.tensor([.5, 0])  # Half of it is outside.
    output = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    expected = x.clone()
    expected[0, 0, 1, 1] = 5 * 2.5 + 1.25
    expected[0, 0, 3, 4] = 19 / 2
    assert torch.allclose(output, expected)


def test_deform_groups_move_their_channels():
    x = torch.arange(6.).expand(1, 2, 1, 6).contiguous()
    offset = torch.zeros(1, 4, 1, 6)
    offset[0, 3] = -1
    output = deform_conv2d(x, offset, torch.tensor([[[[1.]], [[10.]]]]), 1, 0,
                           1, 1, 2)
    assert output.tolist() == [[[[0, 1, 12, 23, 34, 45]]]]


def test_no_gradient_by_offset_where_padding_puts_a_sample():
    """Sample (-1, -1) of the first pixel is outside, by mmcv's rule. Inside,
    the derivative is the difference to the next pixel."""
    x = torch.tensor([[[[1., 2.], [4., 8.]]]])
    offset = torch.zeros(1, 18, 2, 2, requires_grad=True)
    output = deform_conv2d(x, offset, torch.ones(1, 1, 3, 3), 1, 1)
    output.sum().backward()
    grads = offset.grad.view(3, 3, 2, 2, 2)
    assert grads[0, :, 0, 0].eq(0).all()  # y of samples in row -1
    assert grads[:, 0, 1, :, 0].eq(0).all()  # x of samples in column -1
    assert grads[1, 1, 0].tolist() == [[3, 6], [-4, -8]]
    assert grads[1, 1, 1].tolist() == [[1, -2], [4, -8]]


def test_offset_map_larger_than_output_is_read_in_order_of_memory():
    """As DyHead gives them; what is not read has no gradient."""
    x, _, _, weight = random_case(size=(3, 2))
    offset = torch.rand(2, 18, 5, 4, requires_grad=True)
    mask = torch.rand(2, 9, 5, 4, requires_grad=True)
    upstream = torch.rand(2, 6, 3, 2)
    output = modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    grads = torch.autograd.grad(output, (x, offset, mask), upstream)
    read = [
        torch.stack([image.flatten()[:c * 6].view(c, 3, 2) for image in t])
        for t, c in ((offset, 18), (mask, 9))
    ]
    expected = modulated_deform_conv2d(x, *read, weight, None, 1, 1)
    assert torch.equal(output, expected)
    expected_grads = torch.autograd.grad(expected, (x, offset, mask), upstream)
    for grad, expected_grad in zip(grads, expected_grads):
        assert torch.equal(grad, expected_grad)
    assert grads[1].flatten(1)[:, 108:].eq(0).all()


@pytest.mark.parametrize('name', ['offset', 'mask'])
def test_map_smaller_than_output_is_refused(name):
    x, offset, mask, weight = random_case()
    maps = dict(offset=offset, mask=mask)
    maps[name] = maps[name][:, :, :3]
    with pytest.raises(ValueError, match=f'{name} of shape .* is too small'):
        modulated_deform_conv2d(x, *maps.values(), weight, None, 1, 1)


def test_deform_conv_gradcheck():
    x, offset, _, weight = random_case(2, 2, size=(4, 3), dtype=torch.float64)
    assert gradcheck(lambda *args: deform_conv2d(*args, 1, 1),
                     (x, offset, weight))


def test_modulated_deform_conv_gradcheck():
    x, offset, mask, weight = random_case(
        2, 2, size=(4, 3), dtype=torch.float64)
    bias = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *args: modulated_deform_conv2d(*args, 1, 1),
                     (x, offset, mask, weight, bias))


def test_channels_last_is_read_by_index():
    x, offset, mask, weight = random_case()
    expected = modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    last = [
        t.detach().to(memory_format=torch.channels_last)
        for t in (x, offset, mask)
    ]
    output = modulated_deform_conv2d(*last, weight, None, 1, 1)
    assert torch.allclose(output, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deform_conv_in_half_precision(dtype):
    x, offset, _, weight = [t.detach().to(dtype) for t in random_case()]
    expected = deform_conv2d(x.float(), offset.float(), weight.float(), 1, 1)
    weight.requires_grad_()
    output = deform_conv2d(x, offset, weight, 1, 1)
    assert torch.equal(output, expected.to(dtype))
    output.float().sum().backward()
    assert weight.grad.dtype == dtype and weight.grad.isfinite().all()
