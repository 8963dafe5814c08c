"""Hooks of modules fire, and replaced modules are called."""
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.nn.utils import parametrize
from mmhier.models.backbones import LIT, HATNet
from mmhier.models.backbones.accvit import AtrousInvertedResidual
from mmhier.models.layers import BranchGate, Mlp
from mmhier.models.layers.cpu import tiles
from .test_contract import (
    build,
    images,
    own_variants,
    shallow,
    without_accvit,
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of a few rows at the size of these tests."""
    monkeypatch.setattr(tiles, 'TILE_BYTES', 2**15)
    monkeypatch.setattr(tiles, 'TRAINING_TILE_BYTES', 2**15)


def small_model(family, arch):
    return build(family, shallow(family, arch)).eval()


def modules_of(model):
    """Submodules with a forward of their own."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and type(module).forward is not nn.Module.forward
    }


def number_of_calls(name, model):
    """Calls of a submodule in a pass: a DropPath's once for each residual."""
    module = model.get_submodule(name)
    if not isinstance(module, DropPath):
        return 1
    block = model.get_submodule(name.rpartition('.')[0])
    if isinstance(block, AtrousInvertedResidual):
        return 1
    # Blocks of LIT's and LITv2's first stages are MLPs alone.
    return 1 if getattr(block, 'attn', 0) is None else 2


@contextmanager
def hooked(register, name, calls):
    handle = register(lambda *arguments: calls.append((name, arguments[-1])))
    try:
        yield
    finally:
        handle.remove()


def assert_same(found, expected, name):
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), name
        for pair in zip(found, expected):
            assert_same(*pair, name)
    elif isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape, name
        # A single position, as of squeeze-excitation, may have no spread.
        scale = max(expected.std(), 0.1 * expected.abs().max())
        assert torch.allclose(
            found, expected, rtol=1e-6, atol=1e-5 * float(scale)), name


@own_variants
def test_hooks_see_each_whole_map_once(family, arch):
    """With one hook at a time, so that all else may take its fast form."""
    model = small_model(family, arch)
    x = images(64, 72)
    expected: list = []
    handles = [
        module.register_forward_hook(
            lambda m, i, output, name=name: expected.append((name, output)))
        for name, module in modules_of(model).items()
    ]
    outs = model(x)
    for handle in handles:
        handle.remove()
    assert Counter(name for name, _ in expected) == {
        name: number_of_calls(name, model)
        for name in modules_of(model)
    }
    for name, module in modules_of(model).items():
        calls: list = []
        with (torch.no_grad(), hooked(module.register_forward_hook, name,
                                      calls)):
            assert_same(model(x), outs, name)
        wanted = [output for other, output in expected if other == name]
        assert_same([output for _, output in calls], wanted, name)


@without_accvit
def test_other_hooks_see_each_module_once(family, arch):
    model = small_model(family, arch)
    x = images(64, 72)
    names = {name: number_of_calls(name, model) for name in modules_of(model)}
    for grad, method in ((False, 'register_forward_pre_hook'),
                         (True, 'register_full_backward_hook'),
                         (True, 'register_full_backward_pre_hook')):
        calls: list = []
        for name, module in modules_of(model).items():
            if method == 'register_forward_pre_hook' or hasattr(
                    module, 'weight'):
                with (torch.set_grad_enabled(grad),
                      hooked(getattr(module, method), name, calls)):
                    outs = model(x)
                    if grad:
                        sum(out.sum() for out in outs).backward()
        found = Counter(name for name, _ in calls)
        assert found and found == {name: names[name] for name in found}
        if not grad:
            assert found == names


@own_variants
@pytest.mark.parametrize('register, grad', [
    (register_module_forward_hook, False),
    (register_module_forward_pre_hook, False),
    (register_module_full_backward_hook, True),
])
def test_global_hooks_see_every_module(family, arch, register, grad):
    model = small_model(family, arch)
    names = {module: name for name, module in model.named_modules()}
    seen = Counter()
    handle = register(lambda module, *rest: seen.update([names.get(module)]))
    try:
        with torch.set_grad_enabled(grad):
            outs = model(images(64, 72))
            if grad:
                sum(out.sum() for out in outs).backward()
    finally:
        handle.remove()
    expected = {
        name: number_of_calls(name, model)
        for name in modules_of(model)
    }
    assert {name: seen[name] for name in expected} == expected


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, value):
        return 2 * value


class Wrapper(nn.Module):
    """A layer as an adapter replaces it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *arguments):
        return 2 * self.layer(*arguments)


def doubled_by_weights(parent, name):
    layer = getattr(parent, name)
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(2)
    yield
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.div_(2)


def doubled_by_subclass(parent, name):
    layer, cls = getattr(parent, name), type(getattr(parent, name))
    layer.__class__ = type(
        'Subclass', (cls, ),
        dict(forward=lambda self, *args: 2 * cls.forward(self, *args)))
    yield
    layer.__class__ = cls


def doubled_by_wrapper(parent, name):
    layer = getattr(parent, name)
    setattr(parent, name, Wrapper(layer))
    yield
    setattr(parent, name, layer)


def doubled_by_own_forward(parent, name):
    layer = getattr(parent, name)
    forward = layer.forward
    layer.forward = lambda *args: 2 * forward(*args)
    yield
    del layer.forward


def doubled_by_parametrization(parent, name):
    layer = getattr(parent, name)
    names = [n for n, _ in layer.named_parameters(recurse=False)]
    for n in names:
        parametrize.register_parametrization(layer, n, Doubled())
    yield
    for n in names:
        parametrize.remove_parametrizations(layer, n, leave_parametrized=False)


def affine_layers(model):
    """(parent, name) of the layers whose output is linear in their weights."""
    for parent in model.modules():
        for name, layer in parent.named_children():
            if (isinstance(layer, (nn.Linear, nn.Conv2d, nn.LayerNorm,
                                   nn.GroupNorm, nn.BatchNorm2d))
                    and not isinstance(layer, BranchGate)
                    # A deformable convolution has one of its own inside.
                    and not list(layer.children())):
                yield parent, name


@without_accvit
def test_replaced_layers_are_called(family, arch):
    """Each layer once as a subclass, once in one of the other ways."""
    model = small_model(family, arch)
    x = images(64, 72)
    others = (doubled_by_wrapper, doubled_by_own_forward,
              doubled_by_parametrization)
    with torch.no_grad():
        plain = model(x)
        for i, (parent, name) in enumerate(list(affine_layers(model))):
            results = []
            for change in (doubled_by_weights, doubled_by_subclass,
                           others[i % len(others)]):
                with contextmanager(change)(parent, name):
                    results.append(model(x))
            for result in results[1:]:
                assert_same(result, results[0], (type(parent), name))
        assert_same(model(x), plain, 'restored')


def test_weight_norm_and_quantized_layers_are_called():
    torch.manual_seed(0)
    mlp, x = Mlp(32, 64).eval(), torch.randn(1, 900, 32)
    with torch.no_grad():
        expected = mlp(x)
        nn.utils.weight_norm(mlp.fc1)
        torch.testing.assert_close(mlp(x), expected)
        mlp.fc1.weight_g.mul_(2)
        doubled = mlp(x)
        assert (doubled - expected).norm() > 0.3 * expected.norm()
        nn.utils.remove_weight_norm(mlp.fc1)
        torch.testing.assert_close(mlp(x), doubled)
        quantized = torch.ao.nn.quantized.dynamic.Linear(32, 64)
        quantized.set_weight_bias(
            torch.quantize_per_tensor(mlp.fc1.weight, 2**-8, 0, torch.qint8),
            mlp.fc1.bias)
        mlp.fc1 = quantized
        error = (mlp(x) - doubled).norm() / doubled.norm()
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize('family, arch, layer', [
    (HATNet, 'tiny', 'blocks.2.0.conv.conv1.1'),
    (HATNet, 'tiny', 'blocks.3.2.conv.conv2.0'),
    (HATNet, 'tiny', 'blocks.1.1.attn.qkv'),
    (LIT, 'small', 'layers.1.blocks.0.mlp.act'),
    (LIT, 'small', 'layers.2.blocks.0.norm2'),
])
def test_grad_cam_explains_a_class(family, arch, layer):
    """The library's map equals gradient times activation, by autograd."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Classifier(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone = build(family.__name__, arch, out_indices=(3, ))

        def forward(self, x):
            return self.backbone(x)[-1].mean((2, 3))

    model, x = Classifier().eval(), images(96, 96)
    target = model.backbone.get_submodule(layer)

    def as_map(y):
        # Tokens, windows of them, or a channels-last map.
        if y.ndim == 3:
            side = int((y.shape[0] * y.shape[1])**0.5)
            y = y.reshape(1, -1, y.shape[2])[:, :side**2]
            y = y.unflatten(1, (side, side))
        return y.permute(0, 3, 1, 2)

    with GradCAM(model, [target], reshape_transform=as_map) as cam:
        found = cam(x, targets=[ClassifierOutputTarget(7)])
    kept = []
    handle = target.register_forward_hook(lambda m, i, out: kept.append(out))
    score = model(x)[0, 7]
    handle.remove()
    grad, = torch.autograd.grad(score, kept)
    weight = as_map(grad).mean((2, 3), keepdim=True)
    small = (weight * as_map(kept[0])).sum(1).relu()[0].detach()
    assert found.shape == (1, 96, 96) and found.max() > 0.5
    # The library resizes and scales its map to the range of 0 to 1.
    small = (small - small.min()) / (1e-7 + small.max() - small.min())
    large = nn.functional.interpolate(
        small[None, None], (96, 96), mode='bilinear')[0, 0]
    difference = (torch.from_numpy(found[0]) - large).abs()
    assert difference.mean() < 0.02
