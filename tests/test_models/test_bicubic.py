"""Bicubic interpolation as matrix products equals torch's."""
import pytest
import torch
import torch.nn.functional as F
from mmhier.models.layers import dynamic
from mmhier.models.layers.cuda.bicubic import resize_by_products


@pytest.mark.parametrize('old', [(14, 14), (5, 27), (1, 2)])
@pytest.mark.parametrize('new', [(25, 42), (14, 3), (1, 1), (14, 14)])
def test_output_and_gradient(old, new):
    generator = torch.Generator().manual_seed(0)
    x, grad = (
        torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        for size in (old, new))
    x.requires_grad_()
    results = []
    for out in (resize_by_products(x, *new),
                F.interpolate(x, new, mode='bicubic', align_corners=False)):
        results.append([out, *torch.autograd.grad(out, x, grad)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('is_strict', [True, False])
def test_taken_where_determinism_was_asked_for(is_strict, monkeypatch):
    """On other devices than CPUs, so not here."""
    calls = []
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled',
                        lambda: is_strict)
    monkeypatch.setattr(dynamic, 'resize_by_products',
                        lambda *args: calls.append(args))
    for device in ('cpu', 'meta'):
        for mode in ('bicubic', 'bilinear'):
            x = torch.zeros(1, 2, 3, 4, device=device)
            dynamic.resize(x, 3, 4, mode)
            dynamic.resize(x, 5, 6, mode)
    assert [(x.device.type, *size)
            for x, *size in calls] == [('meta', 5, 6)] * is_strict
