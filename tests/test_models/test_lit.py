"""LIT: its authors' outputs, a token-by-token reference, tables, messages."""
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import SyncBatchNorm
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import LIT
from mmhier.models.backbones.lit import Attention
from mmhier.models.layers import DeformableMerging, resize_bias_table
from tests import golden
from tests.reference import lit as reference

TINY = dict(
    LIT.arch_zoo['tiny'],
    embed_dims=(8, 8, 12, 16),
    num_heads=(3, 4),
    depths=(1, 1, 2, 1),
    mlp_ratios=(2, 2, 2, 2))
SMALL = dict(
    LIT.arch_zoo['small'],
    embed_dims=(8, 8, 12, 16),
    num_heads=(3, 4),
    depths=(1, 1, 2, 1),
    mlp_ratios=(2, 2, 2, 2))


def official_weights(shapes: dict, dtype=torch.float64) -> dict:
    """Values away from initialization: nonzero offsets, uneven norms."""
    weights = {}
    for name, shape in shapes.items():
        value = torch.as_tensor(golden.fill(name, tuple(shape)))
        if 'relative_position_index' not in name and value.ndim:
            value = value.to(dtype)
        weights[name] = value
    return weights


def leaves(weights: dict) -> dict:
    """Those of the entries that are parameters, as autograd leaves."""
    return {
        name:
        value.clone().requires_grad_()
        if value.is_floating_point() and 'running_' not in name else value
        for name, value in weights.items()
    }


def backbone_part(converted: dict) -> dict:
    return {
        name[len('backbone.'):]: value
        for name, value in converted.items() if name.startswith('backbone.')
    }


def assert_same_gradients(found, wanted, parameters: dict):
    """Outputs and all gradients agree within 1e-10."""
    results = []
    for outputs in (found, wanted):
        loss = 0
        for i, out in enumerate(outputs):
            weight = torch.randn(
                out.shape,
                dtype=out.dtype,
                generator=torch.Generator().manual_seed(i))
            loss = loss + (weight * out).sum()
        results.append(
            torch.autograd.grad(
                loss,
                list(parameters.values()),
                retain_graph=True,
                materialize_grads=True))
    for i, (a, b) in enumerate(zip(found, wanted)):
        assert (a - b).abs().max() < 1e-10, f'output {i}'
    for name, a, b in zip(parameters, *results):
        scale = b.abs().max().clamp(min=1)
        assert (a - b).abs().max() < 1e-10 * scale, name


def module_leaves(module, x) -> dict:
    return {'input': x, **dict(module.named_parameters())}


@pytest.mark.parametrize('variant,arch,bias_size',
                         [('lit_ti', 'tiny', None),
                          ('lit_small_det', 'small', 50)])
def test_features_equal_the_authors(variant, arch, bias_size):
    weights = golden.official_state_dict(variant)
    backbone = LIT(arch, bias_size=bias_size).eval()
    backbone.load_state_dict(
        backbone_part(LIT.convert_official(weights)), strict=True)
    for run in golden.runs(variant):
        with torch.no_grad():
            outputs = backbone(golden.image(*run['input']))
        assert golden.largest_difference(variant, run, outputs) < 1e-4


def classifier(arch, out_type, channels, num_classes=1000):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.LIT', arch=arch, out_type=out_type),
            head=dict(
                type='LinearClsHead',
                num_classes=num_classes,
                in_channels=channels))).eval()


def test_logits_equal_the_authors():
    model = classifier('small', 'avg_featmap', 768)
    weights = golden.official_state_dict('lit_small_cls')
    model.load_state_dict(LIT.convert_official(weights), strict=True)
    (run, ) = golden.runs('lit_small_cls')
    with torch.no_grad():
        logits = model(golden.image(*run['input']))
    assert golden.largest_difference('lit_small_cls', run, [logits]) < 1e-4


@pytest.mark.parametrize('size', [(32, 64), (37, 51)])
@pytest.mark.parametrize('arch,out_type', [(TINY, 'cls_token'),
                                           (SMALL, 'avg_featmap')])
def test_logits_are_the_reference(arch, out_type, size):
    if out_type == 'cls_token':
        shapes = reference.official_shapes_tiny(arch, num_classes=7)
        forward = reference.tiny
    else:
        shapes = reference.official_shapes_swin_like(
            arch, (14, 7), num_classes=7)
        forward = reference.swin_like
    weights = official_weights(shapes)
    model = classifier(arch, out_type, 16, 7).double()
    model.load_state_dict(LIT.convert_official(weights), strict=True)
    x = golden.image(2, *size).double()
    features = forward(x, weights, arch)[1]
    wanted = reference.linear(features, reference.below(weights, 'head.'))
    with torch.no_grad():
        assert (model(x) - wanted).abs().max() < 1e-10


@pytest.mark.parametrize('attn_impl', LIT.attn_impls)
@pytest.mark.parametrize('arch,bias_size', [(TINY, None), (SMALL, 14),
                                            (SMALL, (3, 1))])
@pytest.mark.parametrize('size,training,ceil_mode', [((32, 64), True, True),
                                                     ((37, 51), False, True),
                                                     ((37, 51), False, False)])
def test_backbone_is_the_reference(arch, bias_size, size, training, ceil_mode,
                                   attn_impl):
    model = LIT(
        arch, bias_size=bias_size, attn_impl=attn_impl,
        ceil_mode=ceil_mode).double()
    model.train(training)
    if bias_size is None:
        shapes = reference.official_shapes_tiny(arch)
        forward = reference.tiny
    else:
        shapes = reference.official_shapes_swin_like(arch, model.bias_sizes[2:],
                                                     (1, 2, 3))
        forward = reference.swin_like
    weights = leaves(official_weights(shapes))
    own = backbone_part(LIT.convert_official(weights))
    assert set(own) == set(model.state_dict())
    # Training overwrites the statistics.
    own = {n: v if v.requires_grad else v.clone() for n, v in own.items()}
    x = golden.image(2, *size).double().requires_grad_()
    parameters = {'input': x}
    parameters.update({n: v for n, v in weights.items() if v.requires_grad})
    found = torch.func.functional_call(model, own, (x, ))
    wanted = forward(x, weights, arch, training, ceil_mode)[0]
    assert_same_gradients(found, wanted, parameters)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 3), (4, 1)])
def test_merging_is_the_reference(size, training):
    module = DeformableMerging(4, 6, dict(type='BN')).double()
    weights = official_weights({
        n: list(v.shape)
        for n, v in module.state_dict().items()
    })
    for name in weights:
        if 'conv_offset' in name:
            # Some taps fall off the map, by more than a pixel.
            weights[name] *= 4
    module.load_state_dict(weights)
    module.train(training)
    torch.manual_seed(0)
    x = torch.randn(2, *size, 4, dtype=torch.float64).requires_grad_()
    found = module(x)
    wanted = reference.deformable_merging(
        x.permute(0, 3, 1, 2), {
            **dict(module.named_parameters()),
            **dict(module.named_buffers())
        }, training).permute(0, 2, 3, 1)
    assert_same_gradients([found], [wanted], module_leaves(module, x))


@pytest.mark.parametrize('attn_impl', LIT.attn_impls)
@pytest.mark.parametrize('bias_size', [None, 3, 5, 8])
@pytest.mark.parametrize('grid', [(5, 5), (4, 7), (1, 6), (1, 1)])
def test_attention_is_the_reference(grid, bias_size, attn_impl):
    torch.manual_seed(0)
    module = Attention(12, 3, bias_size, attn_impl).double()
    if bias_size:
        torch.nn.init.normal_(module.relative_position_bias_table)
    x = torch.randn(
        2, grid[0] * grid[1], 12, dtype=torch.float64, requires_grad=True)
    wanted = reference.attention(x, dict(module.named_parameters()), 3, grid)
    assert_same_gradients([module(x, *grid)], [wanted],
                          module_leaves(module, x))


@pytest.mark.parametrize('grid,side', [((112, 112), 28), ((128, 98), 28),
                                       ((49, 64), 56), ((7, 9), 14)])
def test_position_embedding_is_that_of_its_own_stage(grid, side):
    """The authors compare each with the 3136 tokens of the first stage."""
    stage = LIT(TINY).double().layers[{56: 0, 28: 1, 14: 2}[side]]
    x = torch.randn(1, *grid, stage.pos_embed.shape[2], dtype=torch.float64)
    wanted = reference.resized_pos_embed(stage.pos_embed, *grid)
    assert (stage.embed(x) - x.flatten(1, 2) - wanted).abs().max() < 1e-10
    own = torch.randn(1, side, side, x.shape[3], dtype=torch.float64)
    assert torch.equal(stage.embed(own), own.flatten(1, 2) + stage.pos_embed)


@pytest.mark.parametrize('size', [(448, 448), (392, 512), (196, 256)])
def test_sizes_that_the_authors_cannot_take(size):
    with torch.no_grad():
        outputs = LIT(TINY).eval()(torch.randn(1, 3, *size))
    assert outputs[3].shape[2:] == (-(-size[0] // 32), -(-size[1] // 32))


@pytest.mark.parametrize('bias_size,rows',
                         [(14, (729, 169)), (50, (9801, 2401)),
                          (32, (3969, 961)), ((20, 10), (1521, 361))])
def test_published_tables_load_as_they_are(bias_size, rows):
    backbone = LIT(SMALL, bias_size=bias_size, out_norms=range(4))
    assert rows == tuple(
        len(backbone.layers[i].blocks[0].attn.relative_position_bias_table)
        for i in (2, 3))
    weights = official_weights(
        reference.official_shapes_swin_like(SMALL, backbone.bias_sizes[2:],
                                            range(4)), torch.float32)
    report = load_backbone_weights(backbone, weights)
    assert report.fraction == 1
    assert not (report.resized or report.missing or report.mismatched)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_imagenet_tables_are_resized_once_for_detection():
    weights = official_weights(
        reference.official_shapes_swin_like(SMALL, (14, 7), num_classes=7),
        torch.float32)
    backbone = LIT(SMALL, bias_size=50)
    report = load_backbone_weights(backbone, weights)
    assert report.fraction == 1 and not report.missing
    assert report.new == sorted(f'norm{i}.{n}' for i in (1, 2, 3)
                                for n in ('bias', 'weight'))
    tables = [n for n in weights if n.endswith('bias_table')]
    assert len(tables) == 3 and report.resized == sorted(tables)
    for name in tables:
        side = 50 if name.startswith('layers.2') else 25
        found = backbone.state_dict()[name]
        wanted = reference.resized_table(weights[name], side, side)
        assert (found - wanted.flatten(0, 1)).abs().max() < 1e-5
        # No shift: the bias at distance zero stays where and what it was.
        middle = len(weights[name]) // 2
        assert (found[len(found) // 2] -
                weights[name][middle]).abs().max() < 1e-6


def test_no_interpolation_when_the_sizes_agree(monkeypatch):
    sizes = []
    interpolate = F.interpolate

    def record(x, size, **kwargs):
        sizes.append(size)
        return interpolate(x, size, **kwargs)

    monkeypatch.setattr(F, 'interpolate', record)
    for arch in (TINY, SMALL):
        backbone = LIT(arch).eval()
        backbone(torch.randn(1, 3, 224, 224))
        assert not sizes
        backbone(torch.randn(1, 3, 224, 256))
        assert sizes
        sizes.clear()
    table = torch.randn(25, 2)
    assert torch.equal(resize_bias_table(table, 3, 3), table)
    assert not sizes


def test_table_of_another_size_is_named_on_a_plain_load():
    weights = LIT(SMALL, bias_size=50).state_dict()
    with pytest.raises(RuntimeError) as error:
        LIT(SMALL).load_state_dict(weights)
    assert ('layers.2.blocks.0.attn.relative_position_bias_table is learned '
            'on a grid of side 50, this LIT has 14: set its bias_size') in str(
                error.value)


@pytest.mark.parametrize('arch,kwargs,count', [
    ('tiny', dict(out_type='cls_token'), 19_373_272),
    ('small', dict(out_type='avg_featmap'), 27_204_720),
    ('medium', dict(out_type='avg_featmap'), 48_603_264),
    ('base', dict(out_type='avg_featmap'), 86_267_384),
    ('small', dict(bias_size=50), 27_966_192),
])
def test_parameter_counts_are_the_authors(arch, kwargs, count):
    with torch.device('meta'):
        backbone = LIT(arch, **kwargs)
    assert sum(p.numel() for p in backbone.parameters()) == count
    head = 1000 * (backbone.out_channels[-1] + 1)
    assert count + head == {
        'tiny': 19_886_272,
        'small': 27_973_720,
        'medium': 49_372_264,
        'base': 87_292_384
    }[arch] or 'bias_size' in kwargs


@pytest.mark.parametrize('variant,arch,kwargs', [
    ('lit_ti', 'tiny', {}),
    ('lit_small_det', 'small', dict(grids=(50, 25), out_norms=(1, 2, 3))),
    ('lit_small_cls', 'small', dict(grids=(14, 7), num_classes=1000)),
])
def test_generated_names_are_the_authors(variant, arch, kwargs):
    shapes = reference.official_shapes_tiny(
        LIT.arch_zoo[arch]) if arch == 'tiny' else (
            reference.official_shapes_swin_like(LIT.arch_zoo[arch], **kwargs))
    official = {
        n: list(v.shape)
        for n, v in golden.official_state_dict(variant).items()
    }
    buffers = {n for n in shapes if n.endswith('relative_position_index')}
    assert {n: s for n, s in shapes.items() if n not in buffers} == official


def test_dense_model_loads_the_classifier_of_tiny():
    weights = official_weights(
        reference.official_shapes_tiny(TINY, 7), torch.float32)
    backbone = LIT(TINY)
    report = load_backbone_weights(backbone, weights)
    assert report.fraction == 1 and not (report.missing or report.mismatched)
    assert torch.equal(backbone.layers[3].pos_embed, weights['pos_embed4'][:,
                                                                           1:])
    assert set(report.unused) == {
        'head.fc.weight', 'head.fc.bias', 'layers.3.cls_token',
        'layers.3.cls_pos_embed', 'norm.weight', 'norm.bias'
    }


def test_names_of_other_families_are_refused():
    assert LIT.convert_official({'patch_embed.proj.weight': None}) is None
    assert LIT.convert_official({'backbone.conv1.weight': None}) is None


def test_merging_runs_in_float32_under_autocast():
    torch.manual_seed(0)
    module = DeformableMerging(8, 8, dict(type='BN')).eval()
    torch.nn.init.normal_(module.dconv.conv_offset.weight, std=0.3)
    x = torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        wanted = module(x)
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(module(x), wanted)
        low = module.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16 and low.isfinite().all()


def test_offsets_start_at_zero_as_a_plain_convolution():
    torch.manual_seed(0)
    backbone = LIT(SMALL)
    backbone.init_weights()
    for stage in backbone.layers[:3]:
        conv = stage.downsample.dconv
        assert not conv.conv_offset.weight.any()
        assert not conv.conv_offset.bias.any() and conv.bias.any()
        x = torch.randn(1, conv.in_channels, 4, 6)
        torch.testing.assert_close(
            conv(x), F.conv2d(x, conv.weight, conv.bias, 2))
    for name, parameter in backbone.named_parameters():
        if name.endswith(('fc1.weight', 'qkv.weight', 'bias_table')):
            assert 0.01 < parameter.std() < 0.03, name


def test_norm_cfg_reaches_every_merging():
    for cfg, kind in [(dict(type='SyncBN'), SyncBatchNorm),
                      (dict(type='BN',
                            requires_grad=False), torch.nn.BatchNorm2d)]:
        norms = [
            stage.downsample.norm_layer
            for stage in LIT(SMALL, norm_cfg=cfg).layers[:3]
        ]
        assert all(isinstance(norm, kind) for norm in norms)
        assert all(p.requires_grad == cfg.get('requires_grad', True)
                   for norm in norms for p in norm.parameters())


@pytest.mark.parametrize('out_norms,levels', [(None, [1, 3]), ((), []),
                                              ((0, 1, 2, 3), [1, 3]),
                                              ((0, 3), [3])])
def test_output_norms_are_those_of_returned_maps(out_norms, levels):
    backbone = LIT(SMALL, out_indices=(1, 3), out_norms=out_norms)
    assert [n for n, _ in backbone.named_children()
            ] == ['patch_embed', 'layers', *(f'norm{i}' for i in levels)]
    outputs = backbone.eval()(torch.randn(1, 3, 64, 64))
    for i, out in zip((1, 3), outputs):
        normed = out.mean(1).abs().max() < 1e-4
        assert normed == (i in levels)
    assert not hasattr(LIT(TINY), 'norm3')
    assert hasattr(LIT(TINY, out_norms=(3, )), 'norm3')


def test_frozen_stages_freezes_that_many_stages():
    for frozen_stages in range(-1, 5):
        backbone = LIT(SMALL, frozen_stages=frozen_stages).train()
        trained = {
            '.'.join(n.split('.')[:2])
            if n.startswith('layers') else n.split('.')[0]
            for n, p in backbone.named_parameters() if p.requires_grad
        }
        wanted = {'patch_embed'} if frozen_stages < 0 else set()
        for i in range(max(frozen_stages, 0), 4):
            wanted |= {f'layers.{i}'} | ({f'norm{i}'} if i else set())
        assert trained == wanted


def test_drop_path_grows_linearly():
    rates = [
        block.drop_path.drop_prob
        for stage in LIT('tiny', drop_path_rate=0.15).layers
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.01 * i for i in range(16)])


def test_padding_reaches_stage_2_through_taps_alone():
    """Without position embeddings stages 1 and 2 see pixels of their own
    patches and what the offsets reach; attention sees everything."""
    backbone = LIT(SMALL).eval()
    weights = official_weights(
        reference.official_shapes_swin_like(SMALL, (14, 7), (1, 2, 3)),
        torch.float32)
    backbone.load_state_dict(weights)
    offsets = []
    backbone.layers[0].downsample.dconv.conv_offset.register_forward_hook(
        lambda module, inputs, output: offsets.append(output))
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        alone = backbone(x)
        padded = backbone(F.pad(x, (0, 64, 0, 32)))
    changed = [(a - b[:, :, :a.shape[2], :a.shape[3]]).abs().amax((0, 1))
               for a, b in zip(alone, padded)]
    assert not changed[0].any()
    offset = offsets[0][0].unflatten(0, (2, 2, 2))
    start = torch.arange(16)
    bottom = (2 * start[:12, None] + offset[1, :, 0]).amax(0) + 1
    right = (2 * start + offset[:, 1, 1]).amax(0) + 1
    inside = (bottom <= 23) & (right <= 31)
    assert inside.float().mean() > 0.7
    assert changed[1][inside].max() < 1e-5
    assert changed[1][~inside].max() > 1e-2
    assert changed[2].min() > 1e-5 and changed[3].min() > 1e-5


@pytest.mark.parametrize('arch,kwargs,expected', [
    ('small', dict(bias_size=0), 'bias_size=0 of LIT: expected the side'),
    ('small', dict(bias_size=(14, 7, 3)), 'bias_size=(14, 7, 3)'),
    ('small', dict(bias_size=14.5), 'bias_size=14.5 of LIT'),
    ('tiny', dict(bias_size=14), 'bias_size=14 of LIT: an arch with absolute'),
    ('tiny', dict(out_type='pooled'), "'featmap', 'avg_featmap', 'cls_token'"),
    ('small', dict(out_type='cls_token'), "take 'avg_featmap'"),
    ('tiny', dict(out_type='cls_token', out_indices=(2, 3)),
     "out_type='cls_token' returns the last stage alone, expected (3,)"),
    ('small', dict(out_norms=(1, 4)), 'out_norms=(1, 4) of LIT'),
    (dict(SMALL, depths=(1, 1)), {}, 'depths=(1, 1) in the arch of LIT'),
    (dict(SMALL, num_heads=(5, 4)), {}, 'num_heads=(5, 4) in the arch of LIT'),
    (dict(SMALL, position='none'), {}, "position='none' in the arch of LIT"),
])
def test_wrong_argument_is_named(arch, kwargs, expected):
    with pytest.raises(ValueError) as error:
        LIT(arch, **kwargs)
    assert expected in str(error.value)
