"""Backbones whose later stages are dilated instead of strided."""
import pytest
import torch
from torch.nn.functional import cosine_similarity, interpolate
from mmhier.errors import MMHierError
from mmhier.models import HATNet
from .test_contract import FAMILIES, build, check_shapes, images, shallow

SMALL = [('HATNet', 'tiny'), ('LIT', 'tiny'), ('LIT', 'small'), ('HVT', 'ti-1'),
         ('ACCViT', 'femto'), ('LITv2', 'small')]


@pytest.mark.parametrize('family, arch', SMALL)
@pytest.mark.parametrize('output_stride', [8, 16])
def test_shapes(family, arch, output_stride):
    model = build(
        family, shallow(family, arch), output_stride=output_stride).eval()
    assert model.strides == tuple(min(s, output_stride) for s in (4, 8, 16, 32))
    check_shapes(model, images(63, 95, batch=2))


@pytest.mark.parametrize('family, arch, least', [
    ('HATNet', 'tiny', 0.99),
    ('LIT', 'tiny', 0.94),
    ('LIT', 'small', 0.99),
    ('ACCViT', 'femto', 0.999),
    ('LITv2', 'small', 0.99),
])
def test_weights_of_strided_stages_mean_the_same(family, arch, least):
    """Every n-th pixel of a dilated map is a pixel of the strided one, but
    for what attention and norms see between them."""
    torch.manual_seed(0)
    model = FAMILIES[family](shallow(family, arch)).eval()
    dilated = FAMILIES[family](shallow(family, arch), output_stride=8).eval()
    dilated.load_state_dict(model.state_dict())
    image = interpolate(torch.randn(1, 3, 16, 16), (224, 224), mode='bicubic')
    with torch.no_grad():
        maps = zip(model(image), dilated(image))
    for (wanted, found), step in zip(maps, (1, 1, 2, 4)):
        found = found[:, :, ::step, ::step]
        wanted, found = ((x - x.mean((2, 3), keepdim=True)).flatten()
                         for x in (wanted, found))
        assert cosine_similarity(wanted, found, 0) > (
            least if step > 1 else 1 - 1e-6)


def test_hvt_keeps_all_but_the_levels_that_change():
    model = FAMILIES['HVT']('ti-1')
    dense = FAMILIES['HVT']('ti-1', output_stride=8)
    result = dense.load_state_dict(model.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {name.split('.')[1]
            for name in result.missing_keys} == {'stride16', 'stride32'}


@pytest.mark.parametrize('family, arch', SMALL)
def test_every_parameter_gets_a_gradient(family, arch):
    model = build(family, shallow(family, arch), output_stride=8).train()
    sum(m.square().mean() for m in model(images(64, 96, batch=2))).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_of_dilated_hatnet(with_cp):
    """Gradients of recomputed inputs equal those of the plain form."""
    settings = shallow('HATNet', 'tiny')
    model = build('HATNet', settings, output_stride=8, with_cp=with_cp).double()
    x = images(64, 96, dtype=torch.double).requires_grad_()
    plain = build('HATNet', settings, output_stride=8, attn_impl='eager')
    plain.double().load_state_dict(model.state_dict())
    for hooked in plain.modules():  # modules with hooks are called as they are
        hooked.register_forward_hook(lambda *args: None)
    grads = [
        torch.autograd.grad(sum(m.square().mean() for m in net(x)), x)[0]
        for net in (model.train(), plain.train())
    ]
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-12)


def test_other_values_are_refused():
    with pytest.raises(
            MMHierError,
            match='output_stride=4 of HATNet: expected one of 8, 16, 32'):
        HATNet('tiny', output_stride=4)
