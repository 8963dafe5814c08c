import pytest
import torch
from mmcv.ops import MaskedConv2d

pytestmark = pytest.mark.usefixtures('ext')


@pytest.mark.parametrize('kernel_size, padding', [(3, 1), ((5, 3), (2, 1)),
                                                  (1, 0)])
def test_masked_conv_computes_chosen_pixels_alone(kernel_size, padding):
    torch.manual_seed(0)
    conv = MaskedConv2d(3, 4, kernel_size, padding=padding)
    x = torch.rand(1, 3, 6, 7)
    mask = torch.rand(1, 6, 7) > .6
    mask[0, 0, 0] = mask[0, -1, -1] = True
    with torch.no_grad():
        output, expected = conv(x, mask.float()), conv(x)
    assert torch.allclose(output, expected * mask[:, None], atol=1e-6)


def test_masked_conv_of_no_pixels():
    conv = MaskedConv2d(3, 4, 3, padding=1)
    output = conv(torch.rand(1, 3, 6, 7), torch.zeros(1, 6, 7))
    assert torch.equal(output, torch.zeros(1, 4, 6, 7))
