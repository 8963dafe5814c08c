"""HVT: its authors' outputs, a token-by-token reference, pools, messages."""
import argparse
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import SyncBatchNorm
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import HVT
from mmhier.models.backbones.hvt import (
    PyramidLevel,
    TokenLayout,
    resample_positions,
)
from tests import golden
from tests.reference import hvt as reference

# Taps at pooled levels 0, 1, 1 (before the second pool) and 2.
NARROW = dict(embed_dims=8, num_heads=2, depth=5, pool_block_width=2)
TAPS = (0, 2, 3, 4)
VARIANTS = list(HVT.arch_zoo)


def build(arch=NARROW, taps=TAPS, **kwargs):
    """A backbone away from initialization: no zero bias, uneven norms."""
    if arch is NARROW:
        kwargs.setdefault('drop_path_rate', 0.)
        kwargs.setdefault('tap_indices', taps)
    model = HVT(arch, **kwargs)
    for name, value in model.state_dict().items():
        value.copy_(torch.as_tensor(golden.fill(name, tuple(value.shape))))
    return model


def narrow(variant):
    """The pooling of a published variant on 48 channels."""
    return dict(HVT.arch_zoo[variant], embed_dims=48, num_heads=3)


def assert_same_with_gradients(model, found, wanted, x):
    """Outputs and all gradients agree within 1e-10."""
    leaves = {'input': x, **dict(model.named_parameters())}
    results = []
    for outputs in (found, wanted):
        loss = 0
        for i, out in enumerate(outputs):
            weight = torch.randn(
                out.shape,
                dtype=out.dtype,
                generator=torch.Generator().manual_seed(i))
            loss = loss + (weight * out).sum()
        results.append(torch.autograd.grad(loss, list(leaves.values())))
    for i, (a, b) in enumerate(zip(found, wanted)):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-10, f'output {i}'
    for name, a, b in zip(leaves, *results):
        assert a.any(), name
        scale = b.abs().max().clamp(min=1)
        assert (a - b).abs().max() < 1e-10 * scale, name


def weights_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def classifier(arch, channels):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.HVT', arch=arch, out_type='avg_featmap'),
            head=dict(
                type='LinearClsHead', num_classes=1000,
                in_channels=channels))).eval()


@pytest.mark.parametrize('variant', ['ti_1', 's_2'])
def test_logits_equal_the_authors(variant):
    weights = golden.official_state_dict(f'hvt_{variant}')
    model = classifier(variant.replace('_', '-'), weights['norm.bias'].numel())
    model.load_state_dict(HVT.convert_official(weights), strict=True)
    (run, ) = golden.runs(f'hvt_{variant}')
    with torch.no_grad():
        logits = model(golden.image(*run['input']))
    assert golden.largest_difference(f'hvt_{variant}', run, [logits]) < 1e-4


@pytest.mark.parametrize('compiling', [False, True])
@pytest.mark.parametrize('variant', VARIANTS)
def test_tokens_on_14x14_patches_are_the_authors_bit_by_bit(
        variant, compiling, monkeypatch):
    """With the formulas of compiled graphs too, which skip no resampling."""
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: compiling)
    arch = narrow(variant)
    for size in [(224, 224), (209, 215)]:
        x = golden.image(2, *size)
        padded = F.pad(x, (0, 224 - size[1], 0, 224 - size[0]))
        pooled = build(arch, out_type='avg_featmap').eval()
        with torch.no_grad():
            wanted = reference.official(padded, pooled.state_dict(), arch, 11)
            assert torch.equal(pooled(x)[0], wanted.mean(1))
        for last in (0, 4, 11):
            dense = build(
                arch, tap_indices=(0, 0, last, 11), out_indices=(2, )).eval()
            with torch.no_grad():
                wanted = reference.official(padded, dense.state_dict(), arch,
                                            last)
                (found, ) = dense(x)
            level = sum(block.pos_embed is not None for block in dense.blocks)
            repeated = wanted.repeat_interleave(2**level, 1)
            tail = wanted[:, -1:].expand(-1, 196, -1)
            lifted = torch.cat((repeated, tail), 1)[:, :196]
            assert torch.equal(found,
                               lifted.transpose(1, 2).unflatten(2, (14, 14)))


@pytest.mark.parametrize('attn_impl', HVT.attn_impls)
@pytest.mark.parametrize('pool_mode', ['1d', 'none', '2d'])
@pytest.mark.parametrize('size,training', [((64, 96), True), ((33, 137), True),
                                           ((81, 51), False)])
def test_maps_are_the_reference(size, training, pool_mode, attn_impl):
    model = build(pool_mode=pool_mode, attn_impl=attn_impl).double()
    model.train(training)
    x = golden.image(2, *size).double().requires_grad_()
    weights = {n: v.clone() for n, v in model.named_buffers()}
    weights.update(model.named_parameters())
    wanted = reference.backbone(x, weights, NARROW, pool_mode, TAPS, training)
    assert_same_with_gradients(model, model(x), wanted, x)


@pytest.mark.parametrize('pool_mode', ['1d', '2d'])
@pytest.mark.parametrize('size', [(32, 32), (224, 218), (64, 237)])
def test_pooled_features_are_the_reference(size, pool_mode):
    model = build(out_type='avg_featmap', pool_mode=pool_mode).double().eval()
    x = golden.image(1, *size).double().requires_grad_()
    wanted = reference.pooled_features(x, weights_of(model), NARROW, pool_mode)
    assert_same_with_gradients(model, model(x), [wanted], x)


@pytest.mark.parametrize('pool_mode', ['1d', '2d'])
@pytest.mark.parametrize('grid', [(14, 14), (14, 13), (13, 14), (15, 14),
                                  (7, 20), (2, 2), (1, 9), (3, 1)])
def test_layout_is_the_reference(grid, pool_mode):
    height, width = grid
    trained = pool_mode == '1d' and grid == (14, 14)
    layout = TokenLayout(height, width, pool_mode)
    torch.manual_seed(0)
    x = torch.randn(2, height * width, 3, dtype=torch.float64)
    rows = [list(row.unbind(1)) for row in x.split(width, 1)]
    if trained:
        rows = [list(x.unbind(1))]
    for level in range(5):
        assert layout.num_tokens(level) == x.shape[1]
        assert torch.equal(
            layout.lift(x, level),
            reference.lift(rows, level, height, width, pool_mode))
        length = (196, 97, 48, 23, 11)[level]
        table = torch.randn(1, length, 3, dtype=torch.float64)
        wanted = reference.positions(table, level, height, width, pool_mode,
                                     trained)
        wanted = torch.stack([p for row in wanted for p in row])
        found = resample_positions(table, layout, level)
        assert (found - wanted).abs().max() < 1e-12
        x = layout.pool(x, level)
        rows = reference.pool(rows, pool_mode, trained)
        assert torch.equal(
            x, torch.stack([token for row in rows for token in row], 1))


@pytest.mark.parametrize('width', [7, 9, 13, 14, 15, 16, 20])
@pytest.mark.parametrize('height', [4, 13, 14])
def test_rows_do_not_wrap(height, width):
    layout = TokenLayout(height, width, '1d')
    torch.manual_seed(0)
    x = torch.randn(1, height * width, 4)
    changed = x.clone()
    # Larger than anything: it wins wherever it can be seen.
    changed[:, 2 * width] = 9
    for level in range(4):
        x, changed = layout.pool(x, level), layout.pool(changed, level)
        columns = -(-width // 2**(level + 1))
        differs = (x != changed).any(-1)[0]
        if (height, width) == (14, 14):
            # As the authors have it: the end of the row above sees it.
            assert differs.nonzero().min() * 2**(level + 1) < 2 * width
            continue
        assert x.shape[1] == height * columns
        assert differs.nonzero().flatten().tolist() == [2 * columns]


def test_pool_and_lift_of_a_short_row_by_hand():
    layout = TokenLayout(2, 5, '1d')
    x = torch.tensor([[3., 1, 4, 1, 5], [9, 2, 6, 5, 3]]).view(1, 10, 1)
    once = layout.pool(x, 0)
    assert once.flatten().tolist() == [4, 5, 5, 9, 6, 3]
    assert layout.lift(once, 1).tolist() == [[[[4, 4, 5, 5, 5], [9, 9, 6, 6,
                                                                 3]]]]
    twice = layout.pool(once, 1)
    assert twice.flatten().tolist() == [5, 5, 9, 3]
    assert layout.lift(twice, 2).tolist() == [[[[5, 5, 5, 5, 5],
                                                [9, 9, 9, 9, 3]]]]
    flat = TokenLayout(14, 14, '1d')
    assert [flat.num_tokens(k) for k in range(5)] == [196, 97, 48, 23, 11]
    square = TokenLayout(13, 20, '2d')
    assert [(square.rows(k), square.columns(k)) for k in range(5)] == [(13, 20),
                                                                       (7, 10),
                                                                       (4, 5),
                                                                       (2, 3),
                                                                       (1, 2)]


def test_attention_has_no_mask_at_ragged_sizes(monkeypatch):
    """Rows are pooled to their ends: no token is padding."""
    masks = []
    attention = F.scaled_dot_product_attention

    def record(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', record)
    build()(golden.image(1, 95, 111))
    assert masks == [None] * 5


def test_no_interpolation_on_the_trained_grid(monkeypatch):
    sizes = []
    interpolate = F.interpolate

    def record(x, size, **kwargs):
        sizes.append(size)
        return interpolate(x, size, **kwargs)

    monkeypatch.setattr(F, 'interpolate', record)
    model = build().eval()
    model(golden.image(1, 224, 210))
    assert not sizes
    model(golden.image(1, 224, 225))
    assert sizes == [(14, 15)] * 3


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (49, 64), (63, 95)])
def test_pyramid_norm_sees_no_padding(size):
    """What lies outside the image has no part in the statistics."""
    level = PyramidLevel(4, 4, dict(type='BN')).train()
    grid = [-(-s // 16) for s in size]
    x = torch.randn(2, 4, *grid)
    first = level.up[0](x)[:, :, :-(-size[0] // 8), :-(-size[1] // 8)]
    level(x, *size)
    torch.testing.assert_close(level.up[1][0].running_mean, 0.1 * first.mean(
        (0, 2, 3)))


def beside_zeros(model, x, pixels):
    """Maps of an image, and the same parts of those of the padded image."""
    with torch.no_grad():
        alone = model(x)
        padded = model(F.pad(x, (0, pixels, 0, pixels)))
    return zip(
        alone,
        [b[:, :, :a.shape[2], :a.shape[3]] for a, b in zip(alone, padded)])


def test_zeros_beside_an_image_change_a_bounded_part():
    weights = HVT.convert_official(golden.official_state_dict('hvt_ti_1'))
    model = classifier('ti-1', 192)
    model.load_state_dict(weights)
    dense = HVT('ti-1').eval()
    dense.load_state_dict(model.backbone.state_dict(), strict=False)
    for a, b in beside_zeros(dense, golden.image(1, 256, 256), 32):
        assert 0.2 < (b - a).std() / a.std() < 0.5


def test_only_attention_and_positions_couple_an_image_with_zeros_beside_it():
    """Without them, only windows that reach over the border see the zeros."""
    model = build('s-2').double().eval()
    for name, value in model.state_dict().items():
        if 'attn.proj' in name:
            value.zero_()
        elif 'pos_embed' in name:
            value.copy_(value.mean(1, keepdim=True).expand_as(value))
    pairs = beside_zeros(model, golden.image(1, 64, 192).double(), 32)
    for (a, b), stride in zip(pairs, model.strides):
        # Two pools lie behind the last maps: their windows start 4 patches
        # apart.
        end = -4 * 16 // stride
        torch.testing.assert_close(a[..., :end], b[..., :end])
        assert (a - b)[..., end:].abs().max() > 1e-3


@pytest.mark.parametrize('variant,count,trunk', [
    ('ti-1', 5_735_656, 5_542_656),
    ('s-0', 22_049_896, 21_664_896),
    ('s-1', 22_087_144, 21_702_144),
    ('s-2', 22_105_576, 21_720_576),
    ('s-3', 22_114_408, 21_729_408),
    ('s-4', 22_118_632, 21_733_632),
    ('scale-ti-4', 22_118_632, 21_733_632),
])
def test_parameter_counts_are_the_authors(variant, count, trunk):
    with torch.device('meta'):
        backbone = HVT(variant, out_type='avg_featmap')
        dense = HVT(variant)
    (dims, ) = backbone.out_channels
    found = sum(p.numel() for p in backbone.parameters())
    assert (found, found + 1000 * (dims + 1)) == (trunk, count)
    # Three deconvolutions, a BN and three norms of taps.
    new = 3 * (4 * dims**2 + dims) + 2 * dims + 3 * 2 * dims
    assert sum(p.numel() for p in dense.parameters()) == trunk + new


def test_only_what_a_map_needs_is_built():
    for count in (1, 2, 3, 4):
        for out_indices in combinations(range(4), count):
            model = HVT('s-3', out_indices=out_indices)
            last = (2, 5, 8, 11)[out_indices[-1]]
            assert len(model.blocks) == last + 1
            # Block 8 ends the third map, its pool would feed no other.
            tables = [
                i for i, block in enumerate(model.blocks)
                if block.pos_embed is not None
            ]
            assert tables == [i for i in (0, 4, 8) if i < last]
            names = ['norm_2', 'norm_5', 'norm_8', 'norm']
            assert [n for n, _ in model.named_children()] == [
                'patch_embed', 'blocks', *(names[i] for i in out_indices),
                'pyramid'
            ]
            assert list(model.pyramid) == [
                f'stride{(4, 8, 16, 32)[i]}' for i in out_indices
            ]


def test_one_tap_can_feed_all_maps():
    model = HVT(NARROW, tap_indices=(4, 4, 4, 4)).eval()
    assert [n for n, _ in model.named_children()
            ] == ['patch_embed', 'blocks', 'norm', 'pyramid']
    with torch.no_grad():
        outputs = model(golden.image(1, 64, 80))
    assert torch.equal(F.max_pool2d(outputs[2], 2, ceil_mode=True), outputs[3])


@pytest.mark.parametrize('variant', ['s-0', 's-4'])
def test_unpooled_variants_are_equal(variant):
    weights = golden.official_state_dict('hvt_s_2')
    backbone = HVT(variant, pool_mode='none', out_type='avg_featmap')
    report = load_backbone_weights(backbone, weights)
    assert report.fraction == 1 and not report.missing
    assert set(report.unused) == {
        'head.fc.weight', 'head.fc.bias', 'blocks.0.pos_embed',
        'blocks.6.pos_embed'
    }


class Loaded:
    """Official weights of a narrow s-2 and their file in several wrappings."""

    def __init__(self):
        self.arch = narrow('s-2')
        model = HVT(self.arch, out_type='avg_featmap')
        shapes = {n: tuple(v.shape) for n, v in model.state_dict().items()}
        shapes.update({'head.weight': (1000, 48), 'head.bias': (1000, )})
        self.weights = {
            n: torch.as_tensor(golden.fill(n, s))
            for n, s in shapes.items()
        }
        args = argparse.Namespace(model='hvt_s_2', lr=5e-4, drop_path=0.1)
        parallel = {f'module.{n}': v for n, v in self.weights.items()}
        self.files = {
            'bare':
            self.weights,
            'released':
            dict(model=self.weights),
            'trainer':
            dict(
                model=parallel,
                optimizer={},
                lr_scheduler={},
                epoch=299,
                scaler={},
                args=args),
            'state_dict':
            dict(state_dict=self.weights),
        }


@pytest.mark.parametrize('kind', ['bare', 'released', 'trainer', 'state_dict'])
def test_official_files_load_in_any_wrapping(tmp_path, kind):
    official = Loaded()
    path = tmp_path / 'hvt.pth'
    torch.save(official.files[kind], path)
    backbone = HVT(
        official.arch, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        if not name.startswith(HVT.new_parameters):
            assert torch.equal(value, official.weights[name]), name
    report = load_backbone_weights(backbone, path)
    assert report.fraction == 1
    assert len(report.converted) == len(official.weights)
    assert report.unused == ['head.fc.bias', 'head.fc.weight']
    assert not (report.missing or report.mismatched or report.resized)
    assert {name.split('.')[0]
            for name in report.new
            } == {'norm_2', 'norm_5', 'norm_8', 'pyramid'}


def test_final_norm_of_the_authors_is_that_of_the_last_map():
    official = Loaded()
    part = HVT(official.arch, out_indices=(0, 1))
    report = load_backbone_weights(part, official.weights)
    assert report.fraction == 1 and not report.missing
    assert {'norm.weight', 'norm.bias'} <= set(report.unused)
    assert 'blocks.6.mlp.fc1.weight' in report.unused
    assert torch.equal(part.blocks[0].pos_embed,
                       official.weights['blocks.0.pos_embed'])


def test_files_of_other_models_are_refused():
    official = Loaded()
    with pytest.raises(match='does not fit HVT'):
        load_backbone_weights(HVT('ti-1'), official.weights)
    vit = dict(official.weights, cls_token=torch.zeros(1, 1, 48))
    assert HVT.convert_official(vit) is None
    assert HVT.convert_official({'blocks.0.attn.qkv.weight': None}) is None
    own = HVT(NARROW).state_dict()
    assert HVT.convert_official(own) is None
    assert load_backbone_weights(HVT(NARROW), own).fraction == 1


def test_initialization_is_the_authors():
    torch.manual_seed(0)
    model = HVT('ti-1')
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.startswith(('pyramid', 'patch_embed')):
            continue
        if 'norm' in name:
            assert (parameter == float(name.endswith('weight'))).all(), name
        elif name.endswith('bias'):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
    # PyTorch's default, uniform in +-1 / sqrt(fan_in).
    bound = (3 * 16 * 16)**-0.5
    patches = model.patch_embed.proj.weight
    assert 0.99 * bound < patches.abs().max() <= bound
    assert model.patch_embed.proj.bias.any()


def test_drop_path_grows_linearly_to_the_published_rate():
    rates = [block.drop_path.drop_prob for block in HVT('ti-1').blocks]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])
    part = HVT('ti-1', drop_path_rate=0.22, out_indices=(0, ))
    assert [b.drop_path.drop_prob
            for b in part.blocks] == pytest.approx([0., 0.02, 0.04])


def test_frozen_stages_freezes_the_blocks_up_to_a_tap():
    for frozen_stages in range(-1, 5):
        model = build(frozen_stages=frozen_stages)
        trained = {
            '.'.join(n.split('.')[:2])
            if n.startswith('blocks') else n.split('.')[0]
            for n, p in model.named_parameters() if p.requires_grad
        }
        wanted = {'norm_0', 'norm_2', 'norm_3', 'norm', 'pyramid'}
        if frozen_stages < 0:
            wanted |= {'patch_embed', 'pos_embed'}
        first = TAPS[frozen_stages - 1] + 1 if frozen_stages > 0 else 0
        wanted |= {f'blocks.{i}' for i in range(first, 5)}
        assert trained == wanted
    frozen = HVT(NARROW, frozen_stages=4, out_type='avg_featmap')
    assert not any(p.requires_grad for p in frozen.parameters())


def test_layers_are_counted_from_the_stem():
    model = HVT('s-3', out_indices=(1, 2))
    depths = {
        name: model.layer_id(name)
        for name, _ in model.named_parameters()
    }
    assert depths['pos_embed'] == depths['patch_embed.proj.bias'] == 0
    assert depths['blocks.0.norm1.weight'] == 1
    assert depths['blocks.4.pos_embed'] == 5
    assert depths['blocks.8.mlp.fc2.bias'] == 9
    assert depths['norm_5.weight'] == 10
    assert depths['pyramid.stride8.up.0.bias'] == 10
    assert list(depths.values()) == sorted(depths.values())


@pytest.mark.parametrize('norm_cfg,kind', [
    (dict(type='SyncBN'), SyncBatchNorm),
    (dict(type='BN', requires_grad=False), torch.nn.BatchNorm2d),
    (dict(type='GN', num_groups=2), torch.nn.GroupNorm),
    (dict(type='LN2d'), torch.nn.LayerNorm),
])
def test_norm_cfg_reaches_the_pyramid(norm_cfg, kind):
    model = HVT(NARROW, norm_cfg=norm_cfg).eval()
    norm = model.pyramid.stride4.up[1][0]
    assert isinstance(norm, kind)
    assert norm.weight.requires_grad == norm_cfg.get('requires_grad', True)
    if kind is not SyncBatchNorm:
        assert model(golden.image(1, 33, 40))[0].shape == (1, 8, 9, 10)


@pytest.mark.parametrize('arguments,expected', [
    (dict(pool_mode='3d'),
     "pool_mode='3d' of HVT: expected one of '1d', 'none', '2d'"),
    (dict(out_type='cls_token'),
     "out_type='cls_token' of HVT: expected one of 'featmap', 'avg_featmap'"),
    (dict(tap_indices=(2, 5, 8)),
     'tap_indices=(2, 5, 8) of HVT: expected four ascending numbers from 0 to '
     '11'),
    (dict(tap_indices=(2, 5, 8, 12)), 'from 0 to 11'),
    (dict(tap_indices=(5, 2, 8, 11)), 'ascending'),
    (dict(out_type='avg_featmap', out_indices=(0, 1)),
     "out_indices=(0, 1) of HVT: out_type='avg_featmap' returns the final "
     'tokens alone, expected (3,)'),
    (dict(arch=dict(NARROW, num_heads=3)),
     'embed_dims=8 in the arch of HVT: expected a multiple of num_heads=3'),
    (dict(arch=dict(NARROW, depth=12, pool_block_width=1)),
     'pool_block_width=1 in the arch of HVT: expected 0 (no pooling) or, for '
     'at most six pools, 2 or more'),
    (dict(norm_cfg=dict(type='BM')), "norm_cfg={'type': 'BM'} of HVT"),
    (dict(norm_cfg=dict(type='GN')), "'GN' (and num_groups)"),
    (dict(norm_cfg='BN'), 'norm_cfg=BN of HVT'),
    (dict(norm_cfg=dict(type='BN', groups=2)), 'arguments of that norm'),
    (dict(arch='ti-2'), "unknown arch 'ti-2' of HVT: expected one of ti-1"),
])
def test_wrong_argument_is_named(arguments, expected):
    with pytest.raises(ValueError) as error:
        HVT(**arguments)
    assert expected in str(error.value)


def test_image_below_32_is_named():
    with pytest.raises(ValueError, match='at least 32x32 pixels, not 31x64'):
        build()(golden.image(1, 31, 64))
