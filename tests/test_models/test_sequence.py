"""Sequences of layers, and what replaces them, equal plain calls."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from mmhier.analysis.benchmarking import Case, count_saved_bytes
from mmhier.analysis.variants import PlainForm
from mmhier.models import HATNet
from mmhier.models.layers import (
    Conv,
    DepthwiseConv,
    DilatedDepthwiseConv,
    Linear,
    Mlp,
    PointwiseConv,
    attend,
    by_rows,
    sequence,
)
from mmhier.models.layers.cpu import few_keys, onednn, tiles


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few rows for maps of any size."""
    monkeypatch.setattr(tiles, 'TILE_BYTES', 2**14)
    monkeypatch.setattr(tiles, 'TRAINING_TILE_BYTES', 2**14)


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
    x = torch.randn(shape, dtype=dtype)
    for layer in (Linear(48, 20), PointwiseConv(48, 20)):
        layer = layer.to(dtype)
        weight = layer.weight.flatten(1)
        expected = gradients(lambda x: F.linear(x, weight, layer.bias), x,
                             layer)
        assert_all_close(gradients(layer, x, layer), expected)
        with torch.no_grad():
            assert_all_close([layer(x)], expected[:1])


def mlp_layers():
    return nn.Sequential(Linear(12, 48), nn.GELU(), Linear(48, 12))


SEQUENCES = {
    'mlp':
    mlp_layers,
    'tanh':
    lambda: nn.Sequential(
        Linear(12, 48), nn.GELU(approximate='tanh'), Linear(48, 12)),
    'norm':
    lambda: nn.Sequential(nn.LayerNorm(12), Linear(12, 36)),
    'inverted residual':
    lambda: nn.Sequential(
        nn.Sequential(PointwiseConv(12, 48, bias=False), nn.SiLU()),
        nn.Sequential(DepthwiseConv(48, 3), nn.SiLU()),
        nn.Sequential(PointwiseConv(48, 12, bias=False), nn.LayerNorm(12))),
    'stride':
    lambda: nn.Sequential(
        Conv(12, 8, 3, stride=2), nn.SiLU(), DepthwiseConv(8, 5), nn.SiLU(),
        nn.Dropout(0)),
}


@pytest.mark.parametrize('name', SEQUENCES)
@pytest.mark.parametrize('size', [(2, 30, 17), (1, 5, 7)])
def test_sequence_calls_one_layer_after_the_other(name, size, small_tiles):
    torch.manual_seed(0)
    layers = SEQUENCES[name]()
    x = torch.randn(*size, 12)
    expected = gradients(layers, x, layers)
    assert_all_close(
        gradients(lambda x: sequence(x, *layers), x, layers), expected)
    with torch.no_grad():
        assert_all_close([sequence(x, layers)], expected[:1])
    layers, x = layers.double(), x.double()
    assert_all_close(
        gradients(lambda x: sequence(x, *layers), x, layers),
        gradients(layers, x, layers), 1e-10)


@pytest.mark.parametrize('needs', ['x', 'weights'])
@pytest.mark.parametrize('name', SEQUENCES)
def test_gradients_are_those_asked_for(name, needs, small_tiles):
    torch.manual_seed(0)
    layers = SEQUENCES[name]().requires_grad_(needs == 'weights')
    x = torch.randn(1, 30, 17, 12)

    def run(function):
        inside = x.clone().requires_grad_(needs == 'x')
        leaves = [inside] if needs == 'x' else list(layers.parameters())
        return torch.autograd.grad(function(inside).sin().sum(), leaves)

    assert_all_close(run(lambda x: sequence(x, layers)), run(layers), 1e-3)


@pytest.mark.parametrize('name', SEQUENCES)
def test_sequences_follow_autocast(name, small_tiles):
    torch.manual_seed(0)
    layers = SEQUENCES[name]()
    for x in (torch.randn(1, 30, 17, 12), torch.randn(1, 30, 17,
                                                      12).bfloat16()):
        with torch.autocast('cpu', torch.bfloat16):
            found = gradients(lambda x: sequence(x, layers), x, layers)
            expected = gradients(layers, x, layers)
            with torch.no_grad():
                found.append(sequence(x, layers))
            expected.append(expected[0])
        assert [t.dtype for t in found] == [t.dtype for t in expected]
        for a, b in zip(found, expected):
            assert (a - b).norm() < 0.05 * b.norm()


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('conv', [
    nn.Conv2d(6, 6, 3, stride=2, padding=1),
    nn.Conv2d(6, 6, 1, bias=False),
    DilatedDepthwiseConv(6, 2, 3)
])
def test_batch_norm_is_folded_in_inference_alone(conv, norm, dtype):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Sequential(conv, norm(6)), nn.GELU()).to(dtype)
    layers[0][1].running_mean.normal_()
    layers[0][1].running_var.uniform_(0.5, 2)
    nn.init.normal_(layers[0][1].weight)
    x = torch.randn(2, 6, 21, 30).to(dtype, memory_format=torch.channels_last)
    layers.eval()
    expected = layers(x)
    assert torch.equal(sequence(x, layers), expected)
    with torch.no_grad():
        torch.testing.assert_close(sequence(x, layers), expected)
        statistics = layers[0][1].running_mean.clone()
        if norm is nn.BatchNorm2d:  # the other trains on GPUs alone
            layers.train()
            torch.testing.assert_close(sequence(x, layers), layers(x))
            assert not torch.equal(statistics, layers[0][1].running_mean)


def test_tiles_cover_all_rows_in_multiples(small_tiles):
    x = torch.zeros(1, 50, 20, 8)
    with torch.no_grad():
        found = tiles.row_tiles(x, 32, multiple=7)
    assert len(found) > 3
    assert [i for tile in found for i in range(50)[tile]] == list(range(50))
    assert all(tile.start % 7 == 0 for tile in found)
    assert tiles.row_tiles(x.to('meta'), 32) == [slice(0, 50)]


class Rows(nn.Module):
    """A method of rows that uses some of its parameters and a tensor."""

    def __init__(self):
        super().__init__()
        self.fc = Linear(8, 64)
        self.unused = Linear(8, 8)
        self.scale = nn.Parameter(torch.randn(64))

    def method(self, x, shift):
        return (self.fc(x) * self.scale + shift).square()


@pytest.mark.parametrize('x_needs_grad', [True, False])
def test_tiles_change_neither_result_nor_gradients(small_tiles, x_needs_grad):
    torch.manual_seed(0)
    module = Rows()
    x = torch.randn(2, 50, 20, 8)
    shift = torch.randn(64, requires_grad=True)

    def run(function):
        module.zero_grad()
        shift.grad = None
        inside = x.clone().requires_grad_(x_needs_grad)
        out = function(inside, shift)
        out.sin().sum().backward()
        assert module.unused.weight.grad is None
        grads = [
            shift.grad, module.scale.grad, module.fc.weight.grad,
            module.fc.bias.grad
        ]
        return [out.detach(), *grads] + [inside.grad] * x_needs_grad

    assert len(tiles.row_tiles(x, 64)) > 4
    assert_all_close(
        run(lambda x, shift: by_rows(module.method, x, shift)),
        run(module.method), 1e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            by_rows(module.method, x, shift), module.method(x, shift))


def test_rows_with_a_random_layer_are_not_computed_twice(small_tiles):
    module = Rows()
    module.fc = nn.Sequential(module.fc, nn.Dropout())
    out = by_rows(module.method, torch.randn(2, 50, 20, 8), torch.zeros(64))
    assert '_RecomputedTiles' not in type(out.grad_fn).__name__


def test_frozen_parameters_get_no_gradient_through_tiles(small_tiles):
    mlp = Mlp(8, 64)
    mlp.fc1.requires_grad_(False)
    x = torch.randn(1, 500, 8, requires_grad=True)
    mlp(x).sum().backward()
    assert mlp.fc1.weight.grad is None
    assert mlp.fc2.weight.grad is not None and x.grad is not None


@pytest.mark.parametrize('size', [(96, 128), (101, 77), (224, 224)])
@pytest.mark.parametrize('autocast', [False, True])
def test_hatnet_in_tiles_is_hatnet(monkeypatch, size, autocast):
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

    # In one tile each, as on other devices.
    for name in ('TILE_BYTES', 'TRAINING_TILE_BYTES'):
        monkeypatch.setattr(tiles, name, 2**40)
    expected = run()
    for name in ('TILE_BYTES', 'TRAINING_TILE_BYTES'):
        monkeypatch.setattr(tiles, name, 2**15)
    found = run()
    tolerance = 0.3 if autocast else 1e-3
    for a, b in zip(found[0], expected[0]):
        assert (a - b).abs().max() <= tolerance * b.std()
    for name, grad in expected[1].items():
        error = (found[1][name] - grad).norm() / grad.norm().clamp(min=1e-6)
        assert error <= tolerance, name


def test_tiles_and_recomputed_inputs_save_memory():
    case = Case('training', 448, 448)
    model = HATNet('tiny')
    assert count_saved_bytes(
        model, case) < 0.7 * count_saved_bytes(PlainForm(model), case)


def test_few_key_attention_equals_the_plain_one():
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, n, 3 * 16).view(2, n, 3, 16).transpose(1, 2)
        for n in (1500, 150, 150))
    expected = (q.double() @ k.double().mT / 4).softmax(-1) @ v.double()
    with torch.no_grad():
        assert few_keys.suits_few_keys(q, k)
        found = attend(q, k, v)
        direct = few_keys.attend_few_keys(q, k, v)
    for out in (found, direct):
        assert out.shape == expected.shape
        assert (out - expected).abs().max() < 1e-5
    assert torch.equal(found, direct)
    half = [t.bfloat16() for t in (q, k, v)]
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert few_keys.suits_few_keys(*half[:2]) is onednn.HAS_BFLOAT16
        found = attend(*half)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.02


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('activation', [None, nn.SiLU(), nn.GELU()])
@pytest.mark.parametrize('shape', [(2, 200, 48), (2, 700, 48), (2, 30, 31, 48)])
def test_fused_linear_layers_are_those_of_torch(activation, shape, half):
    torch.manual_seed(0)
    layer = Linear(48, 20)
    x = torch.randn(shape)
    arguments = x, layer.weight, layer.bias, activation
    tolerance = dict(rtol=0.02, atol=0.02) if half else {}
    with torch.autocast('cpu', torch.bfloat16, half):
        expected = F.linear(x, layer.weight, layer.bias)
        if activation:
            expected = activation(expected)
        torch.testing.assert_close(
            onednn.linear(*arguments), expected, **tolerance)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            torch.testing.assert_close(
                onednn.linear(*arguments), expected, **tolerance)
    assert counter.get_total_flops() == 2 * x.numel() * 20
    if half and not onednn.HAS_BFLOAT16:
        return
    name = ('_convolution_pointwise' if x.numel() > 1024 *
            48 else '_linear_pointwise')
    operator, = counter.get_flop_counts()['Global']
    assert name in str(operator)


def test_other_schemas_of_private_operators_are_not_used(monkeypatch):
    schema = onednn.SCHEMAS['_linear_pointwise']
    assert onednn.has_operators(onednn.SCHEMAS)
    assert not onednn.has_operators(
        dict(_linear_pointwise=schema.replace('str attr', 'int attr')))
    assert not onednn.has_operators(dict(_no_such_operator=schema))
    monkeypatch.setattr(onednn, 'HAS_POINTWISE', False)
    torch.manual_seed(0)
    mlp, x = Mlp(12, 48), torch.randn(1, 900, 12)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(
            mlp(x), mlp.fc2(F.gelu(F.linear(x, *mlp.fc1.parameters()))))
    assert not any('mkldnn' in str(op)
                   for op in counter.get_flop_counts()['Global'])
