"""HAT-Net agrees with its authors' code and with a slow reference."""
import pytest
import torch
from mmpretrain.registry import MODELS
from mmhier.analysis import count_complexity
from mmhier.checkpoints import load_backbone_weights
from mmhier.models.backbones import HATNet
from mmhier.models.backbones.hatnet import HierarchicalAttention, average_cells
from tests import golden
from tests.reference.hatnet import hierarchical_attention

# With the classifier and the norms that the authors never use, without
# either, and what those norms hold.
COUNTS = {
    'tiny': (12_655_912, 12_270_912, 5_760),
    'small': (25_747_784, 25_234_784, 9_216),
    'medium': (42_942_472, 42_429_472, 16_512),
    'large': (63_132_488, 62_491_488, 23_552),
}


def classifier(arch):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.HATNet', arch=arch),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='mmhier.DropoutClsHead',
                num_classes=1000,
                in_channels=HATNet.arch_zoo[arch]['embed_dims'][-1])))


@pytest.mark.parametrize('arch', ['tiny', 'small'])
def test_features_and_logits_equal_the_authors(arch):
    weights = golden.official_state_dict(f'hatnet_{arch}')
    model = classifier(arch).eval()
    model.load_state_dict(HATNet.convert_official(weights), strict=True)
    for run in golden.runs(f'hatnet_{arch}'):
        images = golden.image(*run['input'])
        with torch.no_grad():
            if run['kind'] == 'logits':
                outputs = (model(images), )
            else:
                outputs = model.backbone(images)
        assert golden.largest_difference(f'hatnet_{arch}', run, outputs) < 1e-4
    report = load_backbone_weights(HATNet(arch), weights)
    assert report.fraction == 1 and not report.missing


@pytest.mark.parametrize('arch', COUNTS)
def test_parameter_counts_are_the_published_ones(arch):
    whole, headless, unused = COUNTS[arch]
    model = classifier(arch)
    count = sum(p.numel() for p in model.parameters())
    backbone = sum(p.numel() for p in model.backbone.parameters())
    assert count == whole - unused
    assert backbone == headless - unused
    never_built = sum(2 * block.attn.norm.num_channels
                      for blocks in model.backbone.blocks for block in blocks)
    assert never_built == unused


@pytest.mark.parametrize('arch, whole, conv_only', [
    ('tiny', 2.128e9, 1.969e9),
    ('small', 4.548e9, 4.292e9),
    ('medium', 8.777e9, 8.294e9),
    ('large', 12.075e9, 11.440e9),
])
def test_flops_are_the_published_ones(arch, whole, conv_only):
    model = classifier(arch)
    cost = count_complexity(model)
    assert cost.macs == pytest.approx(whole, rel=0.01)
    attention = sum(
        _attention_macs(block.attn, size)
        for blocks, size in zip(model.backbone.blocks, (56, 28, 14, 7))
        for block in blocks)
    assert cost.attention_macs == attention
    assert cost.macs - attention == pytest.approx(conv_only, rel=0.01)


def _attention_macs(attn, size):
    """Multiply-adds of q k^T and of the product with v, on size**2 tokens."""
    channels = attn.norm.num_channels
    if attn.grid_size == 1:
        return 2 * channels * size**4
    pooled = size // attn.ds_ratio
    return 2 * channels * size**2 * (attn.grid_size**2 + pooled**2)


@pytest.mark.parametrize('grid_size, ds_ratio, height, width', [
    (4, 2, 8, 4),
    (4, 3, 6, 7),
    (3, 4, 5, 9),
    (7, 1, 5, 8),
    (4, 8, 3, 3),
    (1, 1, 4, 5),
])
@pytest.mark.parametrize('attn_impl', ['auto', 'eager'])
def test_attention_equals_the_slow_reference(grid_size, ds_ratio, height, width,
                                             attn_impl):
    torch.manual_seed(0)
    attn = HierarchicalAttention(6, 2, grid_size, ds_ratio, attn_impl).double()
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.normal_()
    x = torch.randn(
        2, height, width, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    out = attn(x)
    (out * weight).sum().backward()

    slow = {
        name: p.detach().clone().requires_grad_()
        for name, p in attn.named_parameters()
    }
    slow_x = x.detach().permute(0, 3, 1, 2).clone().requires_grad_()
    wanted = torch.stack([
        hierarchical_attention(image, slow, 2, grid_size, ds_ratio)
        for image in slow_x
    ]).permute(0, 2, 3, 1)
    (wanted * weight).sum().backward()

    close = dict(rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out, wanted, **close)
    torch.testing.assert_close(x.grad, slow_x.grad.permute(0, 2, 3, 1), **close)
    for name, parameter in attn.named_parameters():
        torch.testing.assert_close(parameter.grad, slow[name].grad, **close)


def test_pooling_averages_partial_cells_over_what_they_hold():
    x = torch.arange(10.).view(1, 2, 5, 1)
    pooled = average_cells(x, 3)
    assert pooled.flatten().tolist() == [3.5, 6.0]
    assert average_cells(x, 1) is x


def test_padding_an_image_changes_features_by_a_bounded_amount():
    """Whole-map norms couple the real part to the padding."""
    torch.manual_seed(0)
    model = HATNet('tiny').eval()
    model.init_weights()
    x = torch.randn(1, 3, 224, 224)
    padded = torch.nn.functional.pad(x, (0, 32, 0, 0))
    with torch.no_grad():
        for a, b in zip(model(x), model(padded)):
            b = b[..., :a.shape[-1]]
            change = (a - b).std() / a.std()
            assert 0.01 < change < 0.25


def test_arch_dict_is_checked():
    arch = dict(HATNet.arch_zoo['tiny'])
    with pytest.raises(ValueError, match='depths=.*four numbers'):
        HATNet(dict(arch, depths=(1, 1)))
    with pytest.raises(ValueError, match='multiples of head_dim=40'):
        HATNet(dict(arch, head_dim=40))
