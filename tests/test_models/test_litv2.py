"""LITv2: its authors' outputs, a token-by-token reference, messages."""
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import nn
from mmhier.analysis import count_complexity
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import LIT, LITv2, litv2
from mmhier.models.backbones.litv2 import Block, DepthwiseMlp, HiLoAttention
from mmhier.models.layers import (
    attend,
    merge_windows,
    partition_windows,
    window_mask,
)
from tests import golden
from tests.reference import litv2 as reference
from tests.reference.lit import below
from ..lanes import exports_sizes
from .test_lit import (
    assert_same_gradients,
    backbone_part,
    leaves,
    module_leaves,
    official_weights,
)

SMALL = dict(embed_dims=(8, 8, 12, 16), depths=(1, 1, 2, 1), num_heads=(3, 4))
DENSE = dict(
    litv2_s_det=dict(),
    litv2_s_det_ws4=dict(window_size=4),
    litv2_s_seg=dict(out_norms=(0, 1, 2, 3)))


def dense_model(variant):
    backbone = LITv2('small', ceil_mode=False, **DENSE[variant]).eval()
    weights = golden.official_state_dict(variant)
    backbone.load_state_dict(backbone_part(LITv2.convert_official(weights)))
    return backbone


@torch.no_grad()
def difference(variant, backbone, run):
    return golden.largest_difference(variant, run,
                                     backbone(golden.image(*run['input'])))


@pytest.mark.parametrize('variant', DENSE)
def test_features_equal_the_authors(variant):
    backbone = dense_model(variant)
    assert [run['tag'] for run in golden.runs(variant)
            ] == ['feat224', 'feat200x328', 'feat250x333']
    for run in golden.runs(variant):
        assert difference(variant, backbone, run) < 1e-4


def classifier(arch, num_classes=1000, **kwargs):
    backbone = dict(type='mmhier.LITv2', arch=arch, out_type='avg_featmap')
    channels = LITv2.resolve_arch(arch)['embed_dims'][-1]
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(backbone, **kwargs),
            head=dict(
                type='LinearClsHead',
                num_classes=num_classes,
                in_channels=channels))).eval()


@pytest.mark.parametrize('variant,alpha', [('litv2_s_cls', 0.9),
                                           ('litv2_s_cls_alpha0.5', 0.5)])
def test_logits_equal_the_authors(variant, alpha):
    model = classifier('small', alpha=alpha)
    weights = golden.official_state_dict(variant)
    model.load_state_dict(LITv2.convert_official(weights), strict=True)
    (run, ) = golden.runs(variant)
    with torch.no_grad():
        logits = model(golden.image(*run['input']))
    assert golden.largest_difference(variant, run, [logits]) < 1e-4


def masked_windows(self, x):
    """Hi-Fi that ignores the keys of padded positions."""
    height, width = x.shape[1:3]
    size = self.window_size
    windows = partition_windows(x, size)
    q, k, v = litv2.split_heads(self.h_qkv(windows), 3, self.high_heads)
    out = attend(q, k, v, mask=window_mask(x, size))
    out = self.h_proj(out.transpose(1, 2).flatten(2))
    return merge_windows(out, height, width, size)


def replicated(function):
    """Fill windows up with the last row and column instead of zeros."""

    def call(x, size, *dilation):
        right, bottom = -x.shape[2] % size, -x.shape[1] % size
        x = F.pad(
            x.permute(0, 3, 1, 2), (0, right, 0, bottom), mode='replicate')
        return function(x.permute(0, 2, 3, 1), size, *dilation)

    return call


def padded_before_norm1(self, x):
    """A block that fills windows up before the norm, not behind it."""
    if self.attn is not None:
        height, width = x.shape[1:3]
        size = self.attn.window_size
        padded = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        out = self.attn(self.norm1(padded))
        x = x + out[:, :height, :width]
    return x + self.mlp(self.norm2(x))


def renormalised(x, size):
    """Averages over the real tokens of each window."""
    x = x.permute(0, 3, 1, 2)
    return F.avg_pool2d(x, size, ceil_mode=True).permute(0, 2, 3, 1)


MISTAKES = dict(
    masked_keys=[(HiLoAttention, 'attend_windows', masked_windows)],
    replicate_padding=[(litv2, name, replicated(getattr(litv2, name)))
                       for name in ('partition_windows', 'average_windows')],
    padding_before_norm1=[(Block, 'forward', padded_before_norm1)],
    renormalised_averages=[(litv2, 'average_windows', renormalised)])


@pytest.mark.parametrize('mistake', MISTAKES)
def test_golden_outputs_catch_mistakes_of_padding(mistake, monkeypatch):
    backbone = dense_model('litv2_s_det')
    for patch in MISTAKES[mistake]:
        monkeypatch.setattr(*patch)
    run = golden.runs('litv2_s_det')[2]
    assert difference('litv2_s_det', backbone, run) > 0.1


@pytest.mark.parametrize('ceil_mode', [True, False])
@pytest.mark.parametrize('attn_impl', LITv2.attn_impls)
@pytest.mark.parametrize('window_size,alpha', [(2, 0.9), (3, 0.4)])
@pytest.mark.parametrize('size,training', [((32, 64), True), ((75, 51), False)])
def test_backbone_is_the_reference(window_size, alpha, size, training,
                                   attn_impl, ceil_mode):
    model = LITv2(
        SMALL,
        alpha=alpha,
        window_size=window_size,
        attn_impl=attn_impl,
        ceil_mode=ceil_mode).double()
    model.train(training)
    weights = leaves(
        official_weights(
            reference.official_shapes(SMALL, alpha, out_norms=(1, 2, 3))))
    own = backbone_part(LITv2.convert_official(weights))
    assert set(own) == set(model.state_dict())
    # Training overwrites the statistics.
    own = {n: v if v.requires_grad else v.clone() for n, v in own.items()}
    x = golden.image(2, *size).double().requires_grad_()
    parameters = {'input': x}
    parameters.update({n: v for n, v in weights.items() if v.requires_grad})
    found = torch.func.functional_call(model, own, (x, ))
    wanted = reference.litv2(x, weights, SMALL, alpha, window_size, training,
                             ceil_mode)[0]
    assert_same_gradients(found, wanted, parameters)


@pytest.mark.parametrize('attn_impl', LITv2.attn_impls)
@pytest.mark.parametrize('window_size', [1, 2, 4])
@pytest.mark.parametrize('alpha', [0., 0.2, 0.7, 0.9, 1.])
@pytest.mark.parametrize('grid', [(4, 8), (5, 7), (1, 6), (1, 1)])
def test_attention_is_the_reference(grid, alpha, window_size, attn_impl):
    torch.manual_seed(0)
    module = HiLoAttention(16, 4, alpha, window_size, attn_impl).double()
    x = torch.randn(2, *grid, 16, dtype=torch.float64, requires_grad=True)
    weights = dict(module.named_parameters())
    wanted = reference.hilo(x, weights, 4, alpha, window_size)
    assert_same_gradients([module(x)], [wanted], module_leaves(module, x))


def test_mlp_is_the_reference():
    torch.manual_seed(0)
    module = DepthwiseMlp(6, 10).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    w = dict(module.named_parameters())
    wanted = reference.linear(x, below(w, 'fc1.'))
    wanted = reference.depthwise_conv(wanted, below(w, 'dwconv.'))
    wanted = reference.linear(reference.gelu(wanted), below(w, 'fc2.'))
    assert_same_gradients([module(x)], [wanted], module_leaves(module, x))


@pytest.mark.parametrize('size', [(32, 64), (37, 51)])
def test_logits_are_the_reference(size):
    weights = official_weights(reference.official_shapes(SMALL, num_classes=7))
    model = classifier(SMALL, 7).double()
    model.load_state_dict(LITv2.convert_official(weights), strict=True)
    x = golden.image(2, *size).double()
    features = reference.litv2(x, weights, SMALL, 0.9, 2)[1]
    wanted = reference.linear(features, below(weights, 'head.'))
    with torch.no_grad():
        assert (model(x) - wanted).abs().max() < 1e-10


@pytest.mark.parametrize('size,wanted', [
    ((200, 328), [(50, 82), (25, 41), (12, 20), (6, 10)]),
    ((250, 333), [(63, 84), (31, 42), (15, 21), (7, 10)]),
    ((256, 320), [(64, 80), (32, 40), (16, 20), (8, 10)]),
])
def test_ceil_mode_chooses_the_sizes_of_odd_maps(size, wanted):
    model = LITv2(SMALL).eval()
    authors = LITv2(SMALL, ceil_mode=False).eval()
    authors.load_state_dict(model.state_dict())
    with torch.no_grad():
        ours, theirs = model(torch.ones(1, 3, *size)), authors(
            torch.ones(1, 3, *size))
    assert [tuple(out.shape[2:]) for out in theirs] == wanted
    assert [tuple(out.shape[2:]) for out in ours
            ] == [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]
    if size == (256, 320):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_ceil_mode_changes_odd_maps_as_documented():
    """Of the standard deviation, r.m.s., as configs/litv2/README.md states."""
    authors = dense_model('litv2_s_seg')
    model = LITv2('small', **DENSE['litv2_s_seg']).eval()
    model.load_state_dict(authors.state_dict())
    x = golden.image(1, 250, 333)
    with torch.no_grad():
        changes = [
            (a[..., :b.shape[2], :b.shape[3]] - b).square().mean().sqrt() /
            b.std() for a, b in zip(model(x), authors(x))
        ]
    assert changes == pytest.approx([0, 0.10, 0.14, 0.22], abs=0.005)


@pytest.mark.parametrize('arch,alpha,count', [
    ('small', 0.9, 27_844_000),
    ('medium', 0.9, 48_830_368),
    ('base', 0.9, 86_520_704),
    ('small', 0., 28_089_760),
    ('small', 0.2, 27_844_000),
    ('small', 0.4, 27_696_544),
    ('small', 0.5, 27_647_392),
    ('small', 0.7, 27_696_544),
    ('small', 1., 28_089_760),
])
def test_parameter_counts_are_the_authors(arch, alpha, count):
    with torch.device('meta'):
        backbone = LITv2(arch, alpha=alpha, out_type='avg_featmap')
        dense = [LITv2(arch, alpha=alpha, out_norms=n) for n in ((), range(4))]
    params = sum(p.numel() for p in backbone.parameters())
    dims = backbone.settings['embed_dims']
    assert params + 1000 * (dims[-1] + 1) == count
    plain, normed = (sum(p.numel() for p in m.parameters()) for m in dense)
    assert plain == params - 2 * dims[-1]
    assert normed == plain + 2 * sum(dims)


@pytest.mark.parametrize('arch,window_size,size,macs', [
    ('small', 2, (224, 224), 3_723_626_496),
    ('medium', 2, (224, 224), 7_463_043_072),
    ('base', 2, (224, 224), 13_171_973_120),
    ('small', 2, (384, 384), 11_193_563_136),
    ('base', 2, (384, 384), 39_646_044_160),
    ('small', 4, (512, 512), 19.398e9),
    ('medium', 4, (512, 512), 38.505e9),
    ('base', 2, (800, 1344), 354.345e9),
])
def test_multiply_adds_are_the_authors(arch, window_size, size, macs):
    with torch.device('meta'):
        backbone = LITv2(arch, window_size=window_size)
        # Of the classifier.
        head = 1000 * backbone.out_channels[-1]
    cost = count_complexity(backbone, (1, 3, *size)).macs
    if isinstance(macs, int):
        assert cost + head == macs
    else:
        assert cost == pytest.approx(macs, abs=5e5)


@pytest.mark.parametrize('variant,alpha,kwargs', [
    ('litv2_s_det', 0.9, dict(out_norms=(1, 2, 3))),
    ('litv2_s_seg', 0.9, dict(out_norms=(0, 1, 2, 3))),
    ('litv2_s_cls_alpha0.5', 0.5, dict(num_classes=1000)),
])
def test_generated_names_are_the_authors(variant, alpha, kwargs):
    shapes = reference.official_shapes(LITv2.arch_zoo['small'], alpha, **kwargs)
    official = golden.official_state_dict(variant)
    assert shapes == {n: list(v.shape) for n, v in official.items()}


def test_dense_model_loads_the_classifier():
    weights = official_weights(
        reference.official_shapes(SMALL, num_classes=7), torch.float32)
    backbone = LITv2(SMALL, out_norms=range(4), window_size=4)
    report = load_backbone_weights(backbone, weights)
    assert report.fraction == 1
    assert not (report.missing or report.mismatched or report.resized)
    assert report.new == sorted(f'norm{i}.{n}' for i in range(4)
                                for n in ('bias', 'weight'))
    assert report.unused == [
        'head.fc.bias', 'head.fc.weight', 'norm.bias', 'norm.weight'
    ]


def test_lit_and_litv2_refuse_each_others_names():
    weights = golden.official_state_dict('litv2_s_cls')
    converted = LITv2.convert_official(weights)
    assert LIT.convert_official(weights) is None
    assert LIT.convert_official(backbone_part(converted)) is None
    weights = golden.official_state_dict('lit_small_cls')
    assert LITv2.convert_official(weights) is None


@pytest.mark.parametrize('alpha', [0., 0.5, 1.])
def test_weights_of_another_alpha_are_named(alpha):
    weights = LITv2(SMALL, alpha=alpha).state_dict()
    low_heads = int(3 * alpha)
    with pytest.raises(RuntimeError) as error:
        LITv2(SMALL).load_state_dict(weights)
    assert (f'layers.2.blocks.0.attn has {low_heads} Lo-Fi heads of 3, this '
            'LITv2 has 2: choose an alpha with int(3 * alpha) == '
            f'{low_heads}') in str(error.value)


def test_initialization_is_the_authors():
    torch.manual_seed(0)
    backbone = LITv2('small')
    backbone.init_weights()
    for name, parameter in backbone.named_parameters():
        if 'conv_offset' in name:
            assert not parameter.any(), name
        elif 'dwconv.weight' in name:
            assert 0.45 < parameter.std() < 0.49, name
        elif name.endswith('.weight') and ('attn' in name or 'fc' in name):
            assert 0.0195 < parameter.std() < 0.0205, name
        elif name.endswith('.bias') and ('attn' in name or 'mlp' in name):
            assert not parameter.any(), name
    norms = [
        m for m in backbone.modules()
        if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))
    ]
    assert len(norms) == 27 and all(norm.eps == 1e-5 for norm in norms)


@pytest.mark.parametrize('out_norms,levels', [((1, 2, 3), [1, 3]), ((), []),
                                              ((0, 1, 2, 3), [1, 3]),
                                              ((0, 3), [3])])
def test_output_norms_are_those_of_returned_maps(out_norms, levels):
    backbone = LITv2(SMALL, out_indices=(1, 3), out_norms=out_norms)
    assert [n for n, _ in backbone.named_children()
            ] == ['patch_embed', 'layers', *(f'norm{i}' for i in levels)]
    outputs = backbone.eval()(torch.randn(1, 3, 64, 64))
    for i, out in zip((1, 3), outputs):
        normed = out.mean(1).abs().max() < 1e-4
        assert normed == (i in levels)


def saved_bytes(module, side):
    """Bytes that a map of side x side tokens keeps for backward."""
    sizes = {}

    def pack(x):
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    x = torch.randn(1, side, side, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = module(x)
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    assert out.shape == x.shape
    return sum(n for key, n in sizes.items() if key not in parameters)


@pytest.mark.parametrize('window_size', [1, 2, 4])
def test_memory_of_training_is_linear_in_tokens(window_size):
    counts = {}
    for attn_impl in ('auto', 'eager'):
        module = HiLoAttention(64, 4, 0.5, window_size, attn_impl)
        counts[attn_impl] = [saved_bytes(module, side) for side in (32, 64)]
    small, large = counts['auto']
    assert large < 4.1 * small
    small, large = counts['eager']
    assert large > 6 * small


@exports_sizes
@pytest.mark.parametrize('alpha,window_size', [(0., 4), (0.9, 2), (0.9, 4)])
def test_attention_exports_with_dynamic_sizes(alpha, window_size):
    module = HiLoAttention(16, 4, alpha, window_size, 'auto').eval()
    # torch takes a single row of pooled tokens for a special case.
    length = torch.export.Dim.DYNAMIC(min=window_size + 1, max=256)
    program = torch.export.export(
        module, (torch.randn(1, 11, 13, 16), ),
        dynamic_shapes=({
            1: length,
            2: length
        }, ))
    with torch.no_grad():
        for size in [(5, 5), (8, 12), (9, 6)]:
            x = torch.randn(1, *size, 16)
            torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize('kwargs,expected', [
    (dict(alpha=1.5), 'alpha=1.5 of LITv2: expected a share from 0 to 1'),
    (dict(window_size=0), 'window_size=0 of LITv2: expected the side'),
    (dict(window_size=(2, 1)), 'window_size=(2, 1) of LITv2'),
    (dict(window_size=(1, 0, 2, 1)), 'window_size=(1, 0, 2, 1) of LITv2'),
    (dict(window_size=(0, 0, 2.5, 1)), 'window_size=(0, 0, 2.5, 1) of'),
    (dict(out_type='cls_token'), "expected one of 'featmap', 'avg_featmap'"),
    (dict(out_type='avg_featmap', out_indices=(2, 3)),
     "out_type='avg_featmap' returns the last stage alone, expected (3,)"),
    (dict(out_norms=(1, 4)), 'out_norms=(1, 4) of LITv2'),
    (dict(arch=dict(SMALL, depths=(1, 1))), 'depths=(1, 1) in the arch of'),
    (dict(arch=dict(SMALL, num_heads=(5, 4))), 'num_heads=(5, 4) in the arch'),
])
def test_wrong_argument_is_named(kwargs, expected):
    with pytest.raises(ValueError) as error:
        LITv2(**kwargs)
    assert expected in str(error.value)
