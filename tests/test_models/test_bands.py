"""Layers that trade memory for arithmetic equal what they stand for."""
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from mmhier.analysis.benchmarking import Case, count_saved_bytes
from mmhier.analysis.variants import PlainForm
from mmhier.models import HATNet
from mmhier.models.layers import (
    ActivatedLinear,
    Linear,
    Mlp,
    activated_conv,
    apply_in_bands,
    attend,
    attention,
    bands,
    row_bands,
)


@pytest.fixture
def narrow_bands(monkeypatch):
    """Bands of a few rows for maps of any size."""
    monkeypatch.setattr(bands, 'BAND_BYTES', 2**14)
    monkeypatch.setattr(bands, 'TRAINING_BAND_BYTES', 2**14)


def gradients(function, x, module, seed=0):
    """Result, and gradients of x and of the parameters."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = function(x)
    torch.manual_seed(seed)
    out.backward(torch.randn_like(out))
    return [out.detach(), x.grad, *(p.grad for p in module.parameters())]


def assert_all_close(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('shape', [(2, 300, 48), (1, 700, 48), (1, 3, 48),
                                   (2, 9, 11, 48), (1, 40, 30, 48)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_linear_layers_are_those_of_torch(shape, dtype):
    torch.manual_seed(0)
    layer = Linear(48, 20).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    assert_all_close(
        gradients(layer, x, layer),
        gradients(lambda x: F.linear(x, layer.weight, layer.bias), x, layer))


@pytest.mark.parametrize('activation', ['silu', 'gelu'])
@pytest.mark.parametrize('shape', [(2, 300, 48), (1, 5, 7, 48)])
def test_activated_linear_is_activation_then_linear(activation, shape):
    torch.manual_seed(0)
    layer = ActivatedLinear(48, 20, activation)
    x = torch.randn(shape)
    plain = getattr(F, activation)
    assert_all_close(
        gradients(layer, x, layer),
        gradients(lambda x: F.linear(plain(x), layer.weight, layer.bias), x,
                  layer))
    layer = layer.double()
    assert torch.autograd.gradcheck(layer,
                                    (x[:1, :3].double().requires_grad_(), ))


@pytest.mark.parametrize('groups', [1, 6])
def test_activated_conv_is_activation_then_convolution(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
    x = torch.randn(2, 6, 30, 31)
    assert_all_close(
        gradients(lambda x: activated_conv(x, conv, 'silu'), x, conv),
        gradients(lambda x: conv(F.silu(x)), x, conv))


def test_activated_layers_follow_autocast():
    layer = ActivatedLinear(48, 20, 'gelu')
    x = torch.randn(1, 700, 48).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        found = gradients(layer, x, layer)
        expected = gradients(
            lambda x: F.linear(F.gelu(x), layer.weight, layer.bias), x, layer)
    assert found[0].dtype == torch.bfloat16
    assert found[2].dtype == torch.float32
    assert_all_close(found, expected, 0.1)


def test_bands_cover_all_rows_in_multiples(narrow_bands):
    x = torch.zeros(1, 50, 20, 8)
    with torch.no_grad():
        found = row_bands(x, 32, multiple=7)
    assert len(found) > 3
    assert [i for band in found for i in range(50)[band]] == list(range(50))
    assert all(band.start % 7 == 0 for band in found)
    assert row_bands(x.to('meta'), 32) == [slice(0, 50)]


@pytest.mark.parametrize('x_needs_grad', [True, False])
def test_bands_change_neither_result_nor_gradients(narrow_bands, x_needs_grad):
    torch.manual_seed(0)
    layer = nn.Linear(8, 64)
    x = torch.randn(2, 50, 20, 8)
    shift = torch.randn(64, requires_grad=True)

    def function(x, shift):
        return (layer(x) + shift).square()

    def run(function):
        layer.zero_grad()
        shift.grad = None
        inside = x.clone().requires_grad_(x_needs_grad)
        out = function(inside)
        out.sin().sum().backward()
        grads = [shift.grad, layer.weight.grad, layer.bias.grad]
        return [out.detach(), *grads] + [inside.grad] * x_needs_grad

    assert len(row_bands(x, 64)) > 4
    assert_all_close(
        run(lambda x: apply_in_bands(
            function, x, 64, tensors=[shift], modules=[layer])),
        run(lambda x: function(x, shift)), 1e-3)


def test_frozen_parameters_get_no_gradient_through_bands(narrow_bands):
    mlp = Mlp(8, 64)
    mlp.fc1.requires_grad_(False)
    x = torch.randn(1, 500, 8, requires_grad=True)
    mlp(x).sum().backward()
    assert mlp.fc1.weight.grad is None
    assert mlp.fc2.weight.grad is not None and x.grad is not None


@pytest.mark.parametrize('size', [(96, 128), (101, 77), (224, 224)])
@pytest.mark.parametrize('autocast', [False, True])
def test_hatnet_in_bands_is_hatnet(monkeypatch, size, autocast):
    torch.manual_seed(0)
    model = HATNet('tiny')
    x = torch.randn(2, 3, *size)

    def run():
        model.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, autocast):
            outs = model(x)
            with torch.no_grad():
                inference = model(x)
        sum(out.float().square().mean() for out in outs).backward()
        return [out.float() for out in (*outs, *inference)], {
            name: parameter.grad
            for name, parameter in model.named_parameters()
        }

    # In one band each, as on other devices.
    for name in ('BAND_BYTES', 'TRAINING_BAND_BYTES'):
        monkeypatch.setattr(bands, name, 2**40)
    expected = run()
    for name in ('BAND_BYTES', 'TRAINING_BAND_BYTES'):
        monkeypatch.setattr(bands, name, 2**15)
    found = run()
    tolerance = 0.3 if autocast else 1e-3
    for a, b in zip(found[0], expected[0]):
        assert (a - b).abs().max() <= tolerance * b.std()
    for name, grad in expected[1].items():
        error = (found[1][name] - grad).norm() / grad.norm().clamp(min=1e-6)
        assert error <= tolerance, name


def test_bands_and_activated_layers_save_memory():
    case = Case('training', 448, 448)
    model = HATNet('tiny')
    assert count_saved_bytes(
        model, case) < 0.7 * count_saved_bytes(PlainForm(model), case)


def test_attention_by_convolutions_equals_the_plain_one():
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, n, 3 * 16).view(2, n, 3, 16).transpose(1, 2)
        for n in (1500, 150, 150))
    expected = (q.double() @ k.double().mT / 4).softmax(-1) @ v.double()
    with torch.no_grad():
        assert attention._suits_convolutions(q, k)
        found = attend(q, k, v)
        direct = attention._attend_by_convolutions(q, k, v)
    for out in (found, direct):
        assert out.shape == expected.shape
        assert (out - expected).abs().max() < 1e-5
    assert torch.equal(found, direct)


def test_whole_maps_have_no_bands(narrow_bands):
    x = torch.zeros(1, 50, 20, 8)
    with bands.whole_maps():
        assert row_bands(x, 32) == [slice(0, 50)]
    assert len(row_bands(x, 32)) > 1


@pytest.mark.parametrize('activation', [None, 'silu', 'gelu'])
@pytest.mark.parametrize('shape', [(2, 200, 48), (2, 700, 48), (2, 30, 31, 48)])
def test_fused_linear_layers_are_those_of_torch(activation, shape, monkeypatch):
    module = importlib.import_module('mmhier.models.layers.linear')
    convolved = []

    def convolve(*args, **kwargs):
        convolved.append(args)
        return original(*args, **kwargs)

    original = module.convolve
    monkeypatch.setattr(module, 'convolve', convolve)
    torch.manual_seed(0)
    layer = Linear(48, 20)
    x = torch.randn(shape)
    expected = F.linear(x, layer.weight, layer.bias)
    if activation:
        expected = getattr(F, activation)(expected)
    torch.testing.assert_close(layer(x, then=activation), expected)
    assert not convolved  # Of no use with gradients.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(layer(x, then=activation), expected)
    assert len(convolved) == (x.numel() > 1024 * 48)
    assert counter.get_total_flops() == 2 * x.numel() * 20


def test_layers_in_place_of_an_mlps_are_called():

    class Doubled(nn.Linear):

        def forward(self, x):
            return 2 * super().forward(x)

    torch.manual_seed(0)
    mlp, x = Mlp(32, 64), torch.randn(1, 900, 32)
    mlp.fc1 = Doubled(32, 64)
    expected = mlp.fc2(mlp.fc1(x))
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)
        mlp.fc1 = Linear(32, 64)
        torch.testing.assert_close(
            mlp(x), F.linear(F.gelu(mlp.fc1(x)), mlp.fc2.weight, mlp.fc2.bias))


def test_layers_are_called_with_the_hooks_of_their_modules():
    torch.manual_seed(0)
    model, called = HATNet('tiny').eval(), []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda *args, name=name: called.append(name))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert set(called) == {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
