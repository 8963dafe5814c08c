"""ACC-ViT: its reconstruction, window masks and weights."""
import math
from types import SimpleNamespace

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmpretrain.registry import MODELS
from torch import nn
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import ACCViT, HATNet
from mmhier.models.backbones.accvit import (
    AtrousAttention,
    AtrousInvertedResidual,
)
from mmhier.models.heads import ACCViTClsHead
from mmhier.models.layers import (
    BranchGate,
    DilatedDepthwiseConv,
    gate,
    windows,
)
from tests.reference import accvit as reference

SMALL = dict(
    embed_dims=(8, 8, 16, 16),
    depths=(1, 2, 1, 1),
    stem_channels=8,
    head_dim=4,
    dilations=((1, 2, 4, 8), (1, 2, 4), (1, 2), (1, )))


def randomize(module: nn.Module) -> nn.Module:
    """float64 weights and statistics of a size that lets each of them show.
    """
    generator = torch.Generator().manual_seed(0)
    for name, value in module.double().state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator).double()
            fan_in = math.prod(value.shape[1:])
            if value.ndim > 1:
                noise = noise * (1 if 'table' in name else fan_in**-0.5)
            else:
                centre = name.endswith(('weight', 'running_var'))
                noise = centre + 0.2 * noise
            value.copy_(noise.abs() if 'running_var' in name else noise)
    return module


def assert_agree(module, forward, wanted, x):
    """Outputs, input gradient and every parameter gradient within 1e-10.

    Both callables map an input to a list of maps; `wanted` also gets the
    state dict, the module's own leaves.
    """
    results = []
    for function in (forward, wanted):
        leaf = x.clone().requires_grad_()
        outputs = function(leaf)
        weights = [
            torch.randn(
                o.shape,
                generator=torch.Generator().manual_seed(i),
                dtype=o.dtype) for i, o in enumerate(outputs)
        ]
        loss = sum((o * w).sum() for o, w in zip(outputs, weights))
        leaves = {'input': leaf, **dict(module.named_parameters())}
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        results.append([*outputs, *gradients])
    names = [f'output {i}' for i in range(len(outputs))] + list(leaves)
    for name, found, expected in zip(names, *results):
        scale = expected.abs().max().clamp(min=1)
        assert (found - expected).abs().max() < 1e-10 * scale, name


def weights_of(module) -> dict:
    """Parameters that take part in autograd, and buffers."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize('attn_impl', ['auto', 'eager'])
@pytest.mark.parametrize('size,dilations', [
    ((14, 28), (1, 2)),
    ((9, 11), (1, 2, 4, 8)),
    ((16, 15), (1, 2, 4)),
    ((8, 3), (1, )),
])
def test_atrous_attention_is_the_reference(size, dilations, attn_impl):
    module = randomize(AtrousAttention(8, 2, dilations, attn_impl))
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    assert_agree(
        module, lambda x: [module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)],
        lambda x:
        [reference.atrous_attention(x, weights_of(module), 2, dilations)], x)


@pytest.mark.parametrize('attn_impl', ['auto', 'eager'])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('channels,stride,size', [
    ((8, 8), 1, (6, 7)),
    ((8, 8), 2, (8, 6)),
    ((4, 8), 2, (5, 9)),
])
def test_atrous_inverted_residual_is_the_reference(channels, stride, size,
                                                   training, attn_impl):
    module = randomize(
        AtrousInvertedResidual(*channels, stride, 0., dict(type='BN'),
                               attn_impl))
    module.train(training)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64)
    assert_agree(
        module, lambda x: [module(x)], lambda x: [
            reference.atrous_inverted_residual(x, weights_of(module), stride,
                                               training)
        ], x)


@pytest.mark.parametrize('topology', ACCViT.topologies)
@pytest.mark.parametrize('size,training', [((32, 64), True), ((37, 51), False)])
def test_backbone_is_the_reference(topology, size, training):
    model = randomize(ACCViT(SMALL, topology=topology)).train(training)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert_agree(
        model, model, lambda x: reference.backbone(x, weights_of(model), SMALL,
                                                   topology, training), x)


@pytest.mark.parametrize('arch,count', [
    ('femto', 4_399_880),
    ('pico', 9_550_476),
    ('nano', 16_649_248),
    ('tiny', 28_367_252),
    ('small', 62_886_494),
    ('base', 103_576_028),
])
@pytest.mark.parametrize('topology', ACCViT.topologies)
def test_published_parameter_count(arch, topology, count):
    with torch.device('meta'):
        backbone = ACCViT(arch, topology=topology)
        head = ACCViTClsHead(1000, backbone.out_channels[-1])
    assert num_parameters(backbone) + num_parameters(head) == count


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_each_part_of_tiny():
    backbone = ACCViT('tiny')
    assert num_parameters(backbone.stem) == 38_784
    assert list(
        map(num_parameters,
            backbone.stages)) == [346_416, 1_734_372, 12_028_896, 13_443_104]
    assert num_parameters(ACCViTClsHead(1000, 512)) == 775_680
    # Inverted residual of the first block and of the others, attention block.
    wanted = [(73_136, 68_976, 102_152), (228_064, 252_640, 333_676),
              (865_728, 964_032, 1_057_168), (3_369_856, 3_763_072, 3_155_088)]
    for blocks, (first, other, attention) in zip(backbone.stages, wanted):
        for i, block in enumerate(blocks):
            conv = num_parameters(block.conv)
            assert conv == (other if i else first)
            assert num_parameters(block) - conv == attention


def test_logits_are_tanh_of_a_hidden_layer():
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.ACCViT', arch=SMALL),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='mmhier.ACCViTClsHead', num_classes=5, in_channels=16)))
    randomize(model).eval()
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    pooled = model.backbone(x)[-1].mean((2, 3))
    head = model.head
    hidden = reference.linear(
        reference.layer_norm(pooled, weights_of(head.norm)),
        weights_of(head.hidden))
    assert head.fc.bias is None
    torch.testing.assert_close(model(x), hidden.tanh() @ head.fc.weight.t())


@pytest.mark.parametrize('size', [(33, 47), (64, 80)])
def test_what_windows_pad_changes_nothing(size, monkeypatch):
    """Padding of 1000 instead of 0: outputs and gradients to the last bit."""
    model = randomize(ACCViT(SMALL))
    x = torch.randn(2, 3, *size, dtype=torch.float64)

    def outputs_and_gradients():
        outputs = model(x)
        loss = sum(o.square().sum() for o in outputs)
        return [*outputs, *torch.autograd.grad(loss, model.parameters())]

    zeros = outputs_and_gradients()

    def pad_with_large_numbers(x, amounts, value):
        return nn.functional.pad(x, amounts, value=value or 1000.)

    monkeypatch.setattr(windows, 'F',
                        SimpleNamespace(pad=pad_with_large_numbers))
    for found, expected in zip(outputs_and_gradients(), zeros):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('attn_impl', ACCViT.attn_impls)
def test_windows_of_padding_alone_stay_finite(attn_impl):
    """At 9x57 pixels, dilation 8, most windows hold no pixel at all."""
    module = AtrousAttention(8, 2, (1, 8), attn_impl)
    x = torch.randn(1, 9, 57, 8, requires_grad=True)
    mask = windows.window_mask(x, 7, 8)
    assert (mask < 0).all(-1).any() and not (mask < 0).all()
    with torch.autocast('cpu', torch.bfloat16):
        out = module(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize('count', [2, 3, 4])
@pytest.mark.parametrize('with_scales', [True, False])
@pytest.mark.parametrize('pixels_per_chunk', [1, 7, 1000])
def test_gates_in_chunks_are_the_gates(count, with_scales, pixels_per_chunk,
                                       monkeypatch):
    """The readable form, its input, parameter and branch gradients."""
    batch, height, width, channels = 2, 5, 4, 6
    monkeypatch.setattr(
        gate._GatedSum, 'CHUNK_ELEMENTS',
        pixels_per_chunk * batch * channels // torch.get_num_threads())
    modules = [
        randomize(BranchGate(channels, count, impl))
        for impl in ('auto', 'eager')
    ]
    torch.manual_seed(0)
    x = torch.randn(batch, height, width, channels).double()
    maps = torch.randn(count, batch, height, width, channels).double()
    scales = torch.rand(count, batch, 1, 1, channels).double()
    weight = torch.randn_like(x)
    results = []
    for module in modules:
        leaves = [t.clone().requires_grad_() for t in (x, maps, scales)]
        out = module(leaves[0], list(leaves[1]),
                     list(leaves[2]) if with_scales else None)
        used = leaves[:2 + with_scales] + list(module.parameters())
        results.append([out, *torch.autograd.grad((out * weight).sum(), used)])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('attn_impl', ['auto', 'eager'])
def test_gates_of_equal_branches_change_nothing(attn_impl):
    """They sum to one, whatever their weights."""
    gate = randomize(BranchGate(8, 3, attn_impl))
    x, branch = torch.randn(2, 1, 5, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(gate(x, [branch] * 3), branch)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2, 3, 4])
@pytest.mark.parametrize('size', [(1, 1), (2, 7), (12, 9)])
def test_dilated_depthwise_gradients(stride, dilation, size):
    conv = randomize(DilatedDepthwiseConv(5, stride, dilation))
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    out = conv(x)
    wanted = nn.functional.conv2d(x, conv.weight, None, stride, dilation,
                                  dilation, 5)
    torch.testing.assert_close(out, wanted)
    grad = torch.randn_like(out)
    for found, expected in zip(
            torch.autograd.grad(out, (x, conv.weight), grad),
            torch.autograd.grad(wanted, (x, conv.weight), grad)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    'norm_cfg',
    [dict(type='BN'),
     dict(type='SyncBN'),
     dict(type='GN', num_groups=2)])
@pytest.mark.parametrize('size', [(33, 47), (224, 64)])
def test_inference_kernels_change_no_result(norm_cfg, size):
    """Folded norms and fused attention, against eager under autograd."""
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    model, eager = (
        randomize(ACCViT(SMALL, norm_cfg=norm_cfg, attn_impl=impl)).eval()
        for impl in ('auto', 'eager'))
    with torch.no_grad():
        outputs = model(x)
    for found, expected in zip(outputs, eager(x)):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_fusing_batch_norm_by_mmcv_changes_no_result():
    model = randomize(ACCViT(SMALL)).eval()
    x = torch.randn(1, 3, 40, 52, dtype=torch.float64)
    wanted = model(x)
    for found, expected in zip(fuse_conv_bn(model)(x), wanted):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('dilations', [(1, ), (1, 8)])
def test_padding_reaches_as_far_as_windows_and_convolutions(dilations):
    """One block without squeeze-excitation, of 56 columns, 8 padded.

    The convolutions reach two columns to the left, 54 and 55; from there
    plain windows reach column 49, windows of dilation 8 every eighth column.
    """
    reached = {
        column
        for column in range(56)
        if column >= 49 or (8 in dilations and column % 8 in (54 % 8, 55 % 8))
    }
    arch = dict(SMALL, dilations=(dilations, ) * 4)
    model = randomize(ACCViT(arch, out_indices=(0, ))).eval()
    for module in model.stages[0][0].conv.squeeze_excites:
        module.excite.weight.data.zero_()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        change = model(nn.functional.pad(x, (0, 32)))[0][..., :56]
        change = (change - model(x)[0]).abs().amax((0, 1, 2))
    assert set(change.nonzero().flatten().tolist()) == reached


def test_padding_changes_features_by_the_documented_amount():
    model = randomize(ACCViT('femto')).float().eval()
    torch.manual_seed(0)
    x = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        maps, padded = model(x), model(nn.functional.pad(x, (0, 64, 0, 32)))
    for wanted, found in zip(maps, padded):
        size = wanted.shape[2]
        change = (found[..., :size, :size] - wanted).abs() / wanted.std()
        assert change.mean() < 0.05
        assert 0 < change[..., :size // 4, :size // 4].mean() < 0.015


def test_initialization_is_that_of_maxvit():
    torch.manual_seed(0)
    model = ACCViT('femto')
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert abs(module.weight.mean()) < 0.01, name
            assert 0.01 < module.weight.std() < 0.03, name
            assert module.bias is None or not module.bias.any(), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5
    tables = [p for n, p in model.named_parameters() if n.endswith('_table')]
    # Branches 4, 3, 2, 1 over depths 1, 2, 4, 1.
    assert len(tables) == 4 + 2 * 3 + 4 * 2 + 1
    assert all(0.01 < t.std() < 0.03 for t in tables)


def test_norm_cfg_and_drop_path():
    model = ACCViT(
        'femto', drop_path_rate=0.7, norm_cfg=dict(type='SyncBN', eps=1e-4))
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert {(m.eps, m.momentum) for m in norms} == {(1e-4, 0.01)}
    rates = [(b.conv.drop_path.drop_prob, b.drop_path.drop_prob)
             for stage in model.stages for b in stage]
    assert rates == [pytest.approx((0.1 * i, 0.1 * i)) for i in range(8)]


@pytest.mark.parametrize('kwargs,message', [
    (dict(arch='huge'), "unknown arch 'huge' of ACCViT: expected one of "
     'femto, pico, nano, tiny, small, base, or a dict'),
    (dict(arch={
        **SMALL, 'head_dim': 5
    }), 'embed_dims=(8, 8, 16, 16) in the '
     'arch of ACCViT: expected multiples of head_dim=5 and of 4'),
    (dict(arch={
        **SMALL, 'depths': (1, 2)
    }), 'depths=(1, 2) in the arch of '
     'ACCViT: expected four entries'),
    (dict(topology='serial'), "topology='serial' of ACCViT: expected one of "
     "'gated_residual', 'figure'"),
])
def test_wrong_argument_is_named(kwargs, message):
    with pytest.raises(ValueError) as error:
        ACCViT(**kwargs)
    assert str(error.value) == message


@pytest.mark.parametrize('wrap', [
    lambda weights: weights,
    lambda weights: {
        'state_dict': {
            f'module.backbone.{k}': v
            for k, v in weights.items()
        }
    },
])
def test_own_weights_load(wrap, tmp_path):
    source = randomize(ACCViT(SMALL)).float()
    torch.save(wrap(source.state_dict()), tmp_path / 'own.pth')
    model = ACCViT(SMALL)
    report = load_backbone_weights(model, tmp_path / 'own.pth')
    assert report.fraction == 1
    assert not (report.missing or report.unused or report.converted)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_weights_of_another_network_are_refused():
    weights = HATNet('tiny').state_dict()
    with pytest.raises(match='does not fit ACCViT: 0 of'):
        load_backbone_weights(ACCViT(SMALL), weights)
