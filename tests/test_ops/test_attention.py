import pytest
import torch
from mmcv.ops import PSAMask
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures('ext')

SHAPES = torch.tensor([[3, 4], [2, 2]])
STARTS = torch.tensor([0, 12])


def attend(value, locations, weights, shapes=SHAPES, starts=STARTS):
    """Call the autograd function, which mmcv uses on CUDA alone."""
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts,
                                                  locations, weights, 64)


def random_case(dtype):
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(
            *shape, generator=generator, dtype=dtype).requires_grad_()

    return rand(2, 16, 2, 3), rand(2, 5, 2, 2, 4, 2), rand(2, 5, 2, 2, 4)


def test_ms_deform_attn_reads_the_pixel_of_each_level():
    """Centres of pixels: (1, 2) of a 3 x 4 map, (0, 1) of a 2 x 2 one."""
    value = torch.arange(16.).view(1, 16, 1, 1)
    locations = torch.tensor([[2.5 / 4, 1.5 / 3], [.75, .25]])
    output = attend(value, locations.view(1, 1, 1, 2, 1, 2),
                    torch.tensor([1., 100.]).view(1, 1, 1, 2, 1))
    assert output.tolist() == [[[pytest.approx(6 + 100 * 13)]]]


def test_ms_deform_attn_equals_torch_code_of_mmcv():
    inputs = random_case(torch.float32)
    outputs = (attend(*inputs),
               multi_scale_deformable_attn_pytorch(inputs[0], SHAPES,
                                                   *inputs[1:]))
    assert torch.equal(*outputs)
    upstream = torch.rand(2, 5, 6)
    grads = [torch.autograd.grad(out, inputs, upstream) for out in outputs]
    for grad, expected in zip(*grads):
        assert torch.equal(grad, expected)


def test_ms_deform_attn_gradcheck():
    assert gradcheck(attend, random_case(torch.float64))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_ms_deform_attn_in_half_precision(dtype):
    value, locations, weights = random_case(torch.float32)
    half = value.detach().to(dtype).requires_grad_()
    output = attend(half, locations, weights)
    assert output.dtype == dtype
    assert torch.allclose(
        output.float(), attend(value, locations, weights), atol=.1)
    output.float().sum().backward()
    assert half.grad.dtype == dtype


# Of a 1 x 3 map, with masks of 1 x 3 whose elements are 10 * element + pixel.
MASKS = (10 * torch.arange(3.)[:, None] + torch.arange(3.)).view(1, 3, 1, 3)
COLLECTED = [[10, 1, 0], [20, 11, 2], [0, 21, 12]]


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_centres_each_mask_at_its_pixel(psa_type):
    output = PSAMask(psa_type, (1, 3))(MASKS)
    expected = torch.tensor(COLLECTED, dtype=torch.float32)
    if psa_type == 'distribute':
        expected = expected.T
    assert torch.equal(output, expected.view(1, 3, 1, 3))


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_gradcheck(psa_type):
    masks = torch.rand(2, 12, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(PSAMask(psa_type, (3, 4)), (masks, ))
