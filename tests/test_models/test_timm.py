"""Models of timm give timm's numbers and load timm's files."""
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmhier.analysis.variants import build_variant, load_target
from mmhier.apis import MMHierError
from mmhier.models.backbones.timm import TimmBackbone
from ..config_zoo import (
    ROOT,
    build,
    generated_batch,
    read,
    register_all,
    shrink,
)
from ..lanes import fast_first

VIT = 'vit_tiny_patch16_224'
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob('configs/timm/*.py'))


def images(height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, height, width, generator=generator)


def pretrained(checkpoint: object) -> dict:
    return dict(type='Pretrained', checkpoint=str(checkpoint))


@pytest.mark.parametrize('arch, indices', [('resnet10t', (2, 4)),
                                           ('convnext_atto', (1, 3))])
def test_equals_features_only(arch, indices):
    torch.manual_seed(0)
    backbone = TimmBackbone(arch, out_indices=(1, 3)).eval()
    wanted = timm.create_model(arch, features_only=True, out_indices=indices)
    state = wanted.state_dict()
    assert len(state) == len(backbone.state_dict())
    wanted.load_state_dict(dict(zip(state, backbone.state_dict().values())))
    assert list(backbone.out_channels) == wanted.feature_info.channels()
    assert list(backbone.strides) == wanted.feature_info.reduction()
    with torch.no_grad():
        for a, b in zip(backbone(images()), wanted.eval()(images())):
            torch.testing.assert_close(a, b)


def test_a_plain_vit_gives_a_map_per_block():
    backbone = TimmBackbone(VIT, out_indices=(5, 11), frozen_stages=6)
    assert backbone.strides == (16, 16) and backbone.num_blocks == 12
    with torch.no_grad():
        maps = backbone.eval()(images(65, 96))
    assert [tuple(m.shape) for m in maps] == [(1, 192, 5, 6)] * 2
    trained = {
        name.split('.')[2]
        for name, p in backbone.named_parameters() if p.requires_grad
    }
    assert trained == {str(block) for block in range(6, 12)}


def test_depths_follow_timm_s_groups():
    backbone = TimmBackbone('convnext_atto')  # 2, 2, 6 and 2 blocks
    assert backbone.num_blocks == 12
    for name, depth in {
            'model.stem.0.weight': 0,
            'model.stages.0.blocks.1.norm.bias': 2,
            'model.stages.1.downsample.1.weight': 3,
            'model.stages.3.blocks.1.gamma': 12
    }.items():
        assert backbone.get_layer_depth(name) == (depth, 14)


@pytest.mark.parametrize('arch', ['convnext_atto', VIT])
def test_loads_a_file_of_timm_s(arch, tmp_path):
    """A whole classifier, for a ViT also of images of another size."""
    torch.manual_seed(1)
    args = dict(img_size=96) if arch == VIT else {}
    whole = timm.create_model(arch, **args)
    path = tmp_path / 'weights.pth'
    torch.save(whole.state_dict(), path)
    backbone = TimmBackbone(arch, init_cfg=pretrained(path))
    backbone.init_weights()
    stored = whole.state_dict()
    for name, value in backbone.model.state_dict().items():
        same = name in stored and torch.equal(value, stored[name])
        assert same == (name != 'pos_embed')
    again = TimmBackbone(arch)
    torch.save(backbone.state_dict(), path)
    again.init_cfg = again.pretrained_cfg = pretrained(path)
    again.init_weights()
    for a, b in zip(again.parameters(), backbone.parameters()):
        assert torch.equal(a, b)


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(timm.create_model('resnet10t').state_dict(), path)
    backbone = TimmBackbone('convnext_atto', init_cfg=pretrained(path))
    with pytest.raises(MMHierError, match='weights.pth does not fit Timm'):
        backbone.init_weights()


def test_weights_by_name_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE',
                        str(tmp_path))
    name = 'convnext_atto.d2_in1k'
    backbone = TimmBackbone(
        'convnext_atto', init_cfg=pretrained(f'timm://{name}'))
    with pytest.raises(MMHierError, match=f'timm://{name}: timm cannot load'):
        backbone.init_weights()


@pytest.mark.parametrize('arch, message', [
    ('convnext_atom', "unknown arch 'convnext_atom'.*did you mean convnext_"),
    (dict(depth=2), 'expected a name that timm.list_models'),
])
def test_wrong_arch_is_named(arch, message):
    with pytest.raises(MMHierError, match=message):
        TimmBackbone(arch)


def test_dilation_is_refused():
    with pytest.raises(
            MMHierError, match='output_stride=8.*expected one of 32'):
        TimmBackbone('resnet10t', output_stride=8)


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(MMHierError, match=r'needs timm.*"mmhier\[timm\]"'):
        MODELS.build(dict(type='mmhier.TimmBackbone', arch='resnet10t'))


def test_is_a_target_and_a_peer_of_benchmarks():
    target = load_target('timm:resnet10t')
    model = build_variant(target, 'auto', False, 'cpu')
    assert isinstance(model, TimmBackbone)
    name = 'configs/hatnet/mask2former_hatnet-small_160k_ade20k-512x512.py'
    peer = build_variant(
        load_target(str(ROOT / name)), 'timm:resnet10t', False, 'meta')
    assert peer.model.backbone.settings == dict(arch='resnet10t')
    with pytest.raises(MMHierError, match='eager: mmhier.TimmBackbone is no'):
        build_variant(target, 'eager', False, 'cpu')


@pytest.mark.parametrize('name', fast_first(CONFIGS))
def test_configs_train(name):
    register_all()
    torch.manual_seed(0)
    cfg = read(name)
    assert Path(name).stem.split('_')[1].split('-')[0] in (
        cfg.model.backbone.arch)
    shrink(cfg)
    model = revert_sync_batchnorm(build(cfg)).train()
    data = model.data_preprocessor(generated_batch(cfg), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in model.parameters())
