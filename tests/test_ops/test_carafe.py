import pytest
import torch
from mmcv.ops import CARAFE, CARAFENaive
from torch.autograd import gradcheck

pytestmark = pytest.mark.usefixtures('ext')
both = pytest.mark.parametrize('operator', [CARAFE, CARAFENaive])


@both
@pytest.mark.parametrize('tap, expected', [
    (4, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
    (1, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2]]),
    (5, [[2, 2, 0, 0], [2, 2, 0, 0], [4, 4, 0, 0], [4, 4, 0, 0]]),
])
def test_carafe_kernel_of_one_tap_copies_a_neighbour(operator, tap, expected):
    """The middle, the one above, the one to the right; zero outside."""
    features = torch.tensor([[[[1., 2.], [3., 4.]]]])
    masks = torch.zeros(1, 9, 4, 4)
    masks[:, tap] = 1
    assert operator(3, 1, 2)(features, masks).tolist() == [[expected]]


@both
def test_carafe_sums_its_taps_per_group_and_subpixel(operator):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 6, 3, 4, generator=generator)
    masks = torch.rand(2, 2 * 25, 9, 12, generator=generator)
    output = operator(5, 2, 3)(features, masks)
    padded = torch.nn.functional.pad(features, [2] * 4)
    for b, c, y, x in ((0, 0, 0, 0), (1, 2, 4, 7), (0, 3, 8, 11), (1, 5, 5, 1)):
        window = padded[b, c, y // 3:y // 3 + 5, x // 3:x // 3 + 5]
        kernel = masks[b, c // 3 * 25:c // 3 * 25 + 25, y, x].view(5, 5)
        assert output[b, c, y, x].item() == pytest.approx(
            (window * kernel).sum().item())


def test_carafe_gradcheck():
    features = torch.rand(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(1, 18, 6, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(CARAFE(3, 2, 2), (features, masks))


def test_gradients_of_naive_form_are_the_same(ext):
    """mmcv refuses to call it for tensors on the CPU."""
    features, masks = torch.rand(2, 4, 3, 2), torch.rand(2, 18, 6, 4)
    top_grad = torch.rand(2, 4, 6, 4)
    leaves = features.requires_grad_(), masks.requires_grad_()
    expected = torch.autograd.grad(CARAFE(3, 2, 2)(*leaves), leaves, top_grad)
    buffers = torch.ones(2, 4, 3, 2), torch.ones(2, 18, 6, 4)
    ext.carafe_naive_backward(
        top_grad,
        features,
        masks,
        *buffers,
        kernel_size=3,
        group_size=2,
        scale_factor=2)
    assert torch.equal(buffers[0], expected[0])
    assert torch.equal(buffers[1], expected[1])


def test_carafe_under_autocast():
    features, masks = torch.rand(1, 4, 3, 2), torch.rand(1, 9, 6, 4)
    with torch.autocast('cpu', torch.bfloat16):
        output = CARAFE(3, 1, 2)(features.bfloat16(), masks.bfloat16())
    assert output.dtype == torch.bfloat16
    expected = CARAFE(3, 1, 2)(features, masks)
    assert torch.allclose(output.float(), expected, rtol=.02)
