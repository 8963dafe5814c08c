"""The norm of whole maps for GPUs equals GroupNorm of one group."""
import pytest
import torch
import torch.nn.functional as F
from mmhier.models.layers.cuda.global_norm import global_norm

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=GENERATOR, dtype=dtype)


def expected(x, weight, bias):
    # Contiguous: torch 2.11 crashes on channels-last maps without gradients.
    x = x.permute(0, 3, 1, 2).contiguous()
    return F.group_norm(x, 1, weight, bias, 1e-6).permute(0, 2, 3, 1)


@pytest.mark.parametrize('trained', [(True, True, True), (False, True, True),
                                     (True, False, False)])
def test_outputs_and_gradients_are_group_norms(trained):
    leaves = [3 + random(2, 5, 7, 12), random(12), random(12)]
    leaves = [x.requires_grad_(needed) for x, needed in zip(leaves, trained)]
    wanted = [x for x, needed in zip(leaves, trained) if needed]
    grad = random(2, 5, 7, 12)
    found, reference = global_norm(*leaves, 1e-6), expected(*leaves)
    assert found.is_contiguous()
    torch.testing.assert_close(found, reference)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, grad),
        torch.autograd.grad(reference, wanted, grad))


def test_autocast_sums_in_float32():
    exact = [3 + random(2, 16, 16, 8), random(8), random(8)]
    exact[0] = exact[0].bfloat16().double()
    reference = expected(*exact)
    x, weight, bias = (e.float().requires_grad_() for e in exact)
    with torch.autocast('cpu', torch.bfloat16):
        found = global_norm(x.bfloat16(), weight, bias, 1e-6)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), reference, rtol=2**-8, atol=2e-6)
    found.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
