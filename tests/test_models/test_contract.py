"""The contract of a backbone, over all families and variants."""
import io
from itertools import combinations
from math import ceil

import pytest
import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch.nn.modules.batchnorm import _BatchNorm
from mmhier.models.backbones import HATNet
from mmhier.models.backbones.base import HierarchicalBackbone
from mmhier.registry import MODELS
from ..lanes import IS_OLDEST_TORCH, exports_sizes, fast_first, slow

MODELS.import_from_location()
MODELS.get('TimmBackbone')  # imported on demand
FAMILIES = {
    name: cls
    for name, cls in MODELS.module_dict.items()
    if isinstance(cls, type) and issubclass(cls, HierarchicalBackbone)
}
ALL = [(name, arch) for name, cls in FAMILIES.items() for arch in cls.arch_zoo]
# The cheapest variant of each code path.
OWN = [('HATNet', 'tiny'), ('LIT', 'tiny'), ('LIT', 'small'), ('HVT', 'ti-1'),
       ('HVT', 's-4'), ('ACCViT', 'femto'), ('LITv2', 'small')]
# Models of timm promise no graph for all sizes.
SMALL = [*OWN, ('TimmBackbone', 'resnet10t'), ('TimmBackbone', 'convnext_atto')]
SIZES = [(32, 32), (33, 33), (63, 95), (112, 137), (224, 224), (256, 320)]

# Asserted in both directions: a family has the trait if and only if it is
# listed here.
WITH_BATCH_NORM = {'LIT', 'LITv2', 'HVT', 'ACCViT', 'resnet10t'}
WITH_SIZED_TABLES = {'LIT', 'TimmBackbone'}

small_variants = pytest.mark.parametrize('family, arch', SMALL)
own_variants = pytest.mark.parametrize('family, arch', OWN)
# Its depthwise convolutions make calls in numbers slow on CPUs.
without_accvit = pytest.mark.parametrize(
    'family, arch',
    [slow(*variant) if variant[0] == 'ACCViT' else variant for variant in OWN])


def build(family, arch, seed=0, **kwargs):
    """A backbone whose every parameter is away from its initial value.

    Zero-initialised offsets, gates and biases would hide mistakes.
    """
    torch.manual_seed(seed)
    model = MODELS.build(dict(type=f'mmhier.{family}', arch=arch, **kwargs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def shallow(family, arch):
    """The same code paths in fewer blocks, since tracing is slow."""
    if family == 'TimmBackbone':
        return arch
    settings = dict(FAMILIES[family].arch_zoo[arch])
    if 'depths' in settings:
        settings['depths'] = (1, 1, 1, 1)
    else:
        settings['depth'] = 6
    return settings


def images(height, width, batch=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width, generator=generator).to(dtype)


def loss_of(outputs):
    """A scalar that reaches each output element with its own weight."""
    total = 0
    for out in outputs:
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype)
        total = total + (out * weight.view_as(out)).mean()
    return total


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters()}


def assert_same_gradients(a, b, **tolerance):
    for (name, grad), other in zip(gradients(a).items(), gradients(b).values()):
        assert (grad is None) == (other is None), name
        if grad is not None:
            scale = grad.abs().max().clamp_min(1e-12)
            torch.testing.assert_close(
                grad / scale, other / scale, msg=name, **tolerance)


def check_shapes(model, x):
    with torch.no_grad():
        outputs = model(x)
    assert len(outputs) == len(model.out_indices)
    for out, channels, stride in zip(outputs, model.out_channels,
                                     model.strides):
        assert tuple(out.shape) == (len(x), channels, ceil(x.shape[2] / stride),
                                    ceil(x.shape[3] / stride))
        assert out.is_contiguous() and out.isfinite().all()
    return outputs


def test_every_family_and_variant_is_listed():
    assert set(FAMILIES) == {
        'HATNet', 'LIT', 'LITv2', 'HVT', 'ACCViT', 'TimmBackbone'
    }
    assert len(ALL) == 23
    assert {family for family, _ in SMALL} == set(FAMILIES)


@pytest.mark.parametrize('family, arch', dict.fromkeys([*ALL, *SMALL]))
def test_declared_shapes_are_delivered_by_every_variant(family, arch):
    model = build(family, arch).eval()
    assert model.strides == (4, 8, 16, 32)
    check_shapes(model, images(64, 96))
    depths = [
        model.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in model.named_parameters()
    ]
    last = model.num_blocks + 1
    assert {layers for _, layers in depths} == {last + 1}
    assert {depth for depth, _ in depths} - {last} == set(range(last))
    assert model.get_layer_depth('head.x', 'backbone.') == (last, last + 1)


@small_variants
@pytest.mark.parametrize('batch', [1, 2])
def test_declared_shapes_are_delivered_at_any_size(family, arch, batch):
    model = build(family, arch).eval()
    for size in SIZES:
        check_shapes(model, images(*size, batch=batch))


@small_variants
def test_batch_mates_do_not_matter(family, arch):
    model = build(family, arch).eval()
    x = images(63, 95, batch=2)
    with torch.no_grad():
        together, alone = model(x), model(x[1:])
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1:], b, rtol=1e-4, atol=1e-4)


@small_variants
def test_every_parameter_gets_a_gradient(family, arch):
    whole = None
    for count in (4, 3, 2, 1):
        for out_indices in combinations(range(4), count):
            model = build(family, arch, out_indices=out_indices)
            outputs = check_shapes(model.eval(), images(64, 96))
            whole = whole or outputs
            # In eval mode a BatchNorm of a 1x1 map does not cancel gradients.
            loss_of(model(images(64, 96))).backward()
            dead = [
                name for name, parameter in model.named_parameters()
                if parameter.grad is None or not parameter.grad.any()
            ]
            assert not dead, (out_indices, dead)


@small_variants
def test_a_loss_of_one_map_gives_every_parameter_a_gradient(family, arch):
    """A neck or head may ignore maps; DistributedDataParallel wants zeros."""
    settings = dict(arch=shallow(family, arch), drop_path_rate=0.)
    model, plain = (build(family, norm_eval=True, **settings) for _ in '12')
    x = images(64, 96)
    maps, wanted = model.train()(x), plain.train().forward_maps(x)
    assert all(map(torch.equal, maps, wanted))
    loss_of([maps[1]]).backward()
    loss_of([wanted[1]]).backward()
    for parameter in plain.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    assert_same_gradients(plain, model, rtol=1e-4, atol=1e-5)


@small_variants
def test_frozen_maps_ask_for_no_gradient(family, arch):
    model = build(family, shallow(family, arch), frozen_stages=2).train()
    needed = [m.requires_grad for m in model(images(64, 96))]
    # The pyramid behind HVT's blocks is never frozen.
    assert needed == [family == 'HVT'] * 2 + [True] * 2


@small_variants
def test_out_indices_select_from_the_same_maps(family, arch):
    full = build(family, arch).eval()
    with torch.no_grad():
        wanted = full(images(64, 96))
        for out_indices in [(0, ), (1, 3), (2, )]:
            part = build(family, arch, out_indices=out_indices).eval()
            part.load_state_dict(full.state_dict(), strict=False)
            for index, out in zip(out_indices, part(images(64, 96))):
                torch.testing.assert_close(out, wanted[index])


@small_variants
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_checkpointing_changes_no_loss_gradient_or_statistic(
        family, arch, frozen_stages):
    models = []
    for with_cp in (False, True):
        model = build(
            family,
            arch,
            drop_path_rate=0.3,
            with_cp=with_cp,
            frozen_stages=frozen_stages).train()
        torch.manual_seed(7)
        loss_of(model(images(64, 96, batch=2))).backward()
        models.append(model)
    assert_same_gradients(*models, rtol=1e-5, atol=1e-6)
    for (name, a), b in zip(models[0].named_buffers(), models[1].buffers()):
        assert torch.equal(a, b), name


@small_variants
def test_frozen_stages_get_no_gradient_and_stay_in_eval_mode(family, arch):
    trainable = []
    for frozen_stages in range(-1, 5):
        model = build(family, arch, frozen_stages=frozen_stages).train()
        loss = loss_of(model(images(64, 96, batch=2)))
        if loss.requires_grad:
            loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (not parameter.requires_grad)
        for stage in range(5):
            for module in model.stage_modules(stage):
                assert module.training == (stage > frozen_stages)
            for parameter in model.stage_parameters(stage):
                assert parameter.requires_grad == (stage > frozen_stages)
        trainable.append(
            sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert trainable == sorted(trainable, reverse=True)
    assert len(set(trainable)) == 6
    # The rest are norms or pyramid levels of the outputs.
    assert trainable[-1] < 0.15 * trainable[0]


@small_variants
def test_norm_eval_keeps_batch_norm_statistics(family, arch):
    for norm_eval in (False, True):
        model = build(family, arch, norm_eval=norm_eval).train()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        assert bool(norms) == bool({family, arch} & WITH_BATCH_NORM)
        before = [norm.running_mean.clone() for norm in norms]
        model(images(64, 96, batch=2))
        for norm, mean in zip(norms, before):
            assert torch.equal(norm.running_mean, mean) == norm_eval


@small_variants
def test_fused_attention_equals_eager(family, arch):
    x = images(112, 137, dtype=torch.float64).requires_grad_()
    models, inputs, outputs = [], [], []
    for attn_impl in FAMILIES[family].attn_impls:
        model = build(family, arch, attn_impl=attn_impl).double().eval()
        own = x.detach().clone().requires_grad_()
        out = model(own)
        loss_of(out).backward()
        models.append(model)
        inputs.append(own.grad)
        outputs.append(out)
    for model, grad, out in zip(models[1:], inputs[1:], outputs[1:]):
        for a, b in zip(out, outputs[0]):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grad, inputs[0], rtol=1e-7, atol=1e-10)
        assert_same_gradients(model, models[0], rtol=1e-7, atol=1e-8)


@small_variants
def test_bfloat16_autocast_is_finite_and_close(family, arch):
    model = build(family, arch)
    x = images(112, 137, batch=2)
    with torch.no_grad():
        exact = model.eval()(x)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(x)
    for a, b in zip(outputs, exact):
        assert a.isfinite().all()
        assert (a.float() - b).std() < 0.1 * b.std()
    model.train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of([out.float() for out in model(x)])
    loss.backward()
    for name, grad in gradients(model).items():
        assert grad.isfinite().all(), name


@small_variants
def test_memory_format_of_the_input_does_not_matter(family, arch):
    model = build(family, arch).eval()
    x = images(63, 95, batch=2)
    with torch.no_grad():
        for a, b in zip(
                model(x), model(x.to(memory_format=torch.channels_last))):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        model.to(memory_format=torch.channels_last)
        check_shapes(model, x)


@small_variants
def test_state_dict_round_trip(family, arch):
    model = build(family, arch).eval()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = build(family, arch, seed=1).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        for a, b in zip(model(images(64, 96)), other(images(64, 96))):
            assert torch.equal(a, b)


@pytest.mark.parametrize('family, arch', fast_first(OWN))
def test_compiles_whole_with_at_most_two_recompilations(family, arch):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    model = build(family, shallow(family, arch)).eval()
    compiled = torch.compile(
        model, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for size in [(64, 96), (224, 224), (96, 65), (112, 137), (63, 95),
                     (256, 320)]:
            x = images(*size, batch=2)
            for a, b in zip(compiled(x), model(x)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(graphs) <= (5 if IS_OLDEST_TORCH else 3)
    torch._dynamo.reset()


@exports_sizes
@pytest.mark.parametrize('family, arch', fast_first(OWN))
def test_exports_with_dynamic_height_and_width(family, arch):
    model = build(family, shallow(family, arch)).eval()
    length = torch.export.Dim.DYNAMIC(min=64, max=4096)
    program = torch.export.export(
        model, (images(176, 208), ), dynamic_shapes=({
            2: length,
            3: length
        }, ))
    with torch.no_grad():
        for size in [(64, 64), (65, 97), (224, 224)]:
            x = images(*size)
            for a, b in zip(program.module()(x), model(x)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@small_variants
def test_traits_are_those_declared(family, arch):
    cls = FAMILIES[family]
    assert (cls.fit_state_dict is not HierarchicalBackbone.fit_state_dict) == (
        family in WITH_SIZED_TABLES)
    # timm's models have names of all kinds.
    assert (cls.convert_official({'conv1.weight': torch.zeros(1)}) is None) == (
        family != 'TimmBackbone')
    own = build(family, arch)
    assert isinstance(own, BaseModule)
    assert type(
        MMPRETRAIN_MODELS.build(dict(type=f'mmhier.{family}',
                                     arch=arch))) is cls


@small_variants
@pytest.mark.parametrize('argument, value, expected', [
    ('out_indices', (0, 4), 'from 0 to 3'),
    ('out_indices', (2, 1), 'ascending'),
    ('out_indices', (), 'ascending'),
    ('frozen_stages', 5, 'expected -1'),
    ('attn_impl', 'fast', "'auto'"),
])
def test_wrong_argument_is_named(family, arch, argument, value, expected):
    with pytest.raises(ValueError) as error:
        FAMILIES[family](arch, **{argument: value})
    assert argument in str(error.value) and expected in str(error.value)
    assert family in str(error.value)


@pytest.mark.parametrize('family', [f for f in FAMILIES if f != 'TimmBackbone'])
def test_wrong_arch_is_named(family):
    cls = FAMILIES[family]
    known = next(iter(cls.arch_zoo))
    with pytest.raises(ValueError, match=f"unknown arch 'giant'.*{known}"):
        cls('giant')
    settings = dict(cls.arch_zoo[known])
    settings.pop(next(iter(settings)))
    with pytest.raises(ValueError, match='wrong keys.*missing.*expected'):
        cls(settings)
    with pytest.raises(ValueError, match='wrong keys.*unknown.*embed_dim_'):
        cls(dict(cls.arch_zoo[known], embed_dim_=1))
    with pytest.raises(ValueError, match='name or a dict, not int'):
        cls(3)


@small_variants
@pytest.mark.parametrize('shape, expected', [
    ((1, 3, 31, 64), '31x64'),
    ((1, 3, 64, 31), 'at least 32x32'),
    ((1, 4, 64, 64), r'\(B, 3, H, W\)'),
    ((3, 64, 64), r'\(B, 3, H, W\)'),
])
def test_wrong_image_is_named(family, arch, shape, expected):
    with pytest.raises(ValueError, match=expected):
        FAMILIES[family](arch)(torch.zeros(shape))


@small_variants
def test_init_cfg_of_the_user_replaces_the_default(family, arch):
    model = FAMILIES[family](
        arch, init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    model.init_weights()
    convolutions = [
        m for m in model.modules() if isinstance(m, torch.nn.Conv2d)
    ]
    assert convolutions
    assert all((m.weight == 0.5).all() for m in convolutions)


def test_hatnet_drop_path_grows_linearly():
    rates = [
        block.drop_path.drop_prob
        for blocks in HATNet('tiny', drop_path_rate=0.12).blocks
        for block in blocks
    ]
    assert rates == pytest.approx([0.01 * i for i in range(13)])
