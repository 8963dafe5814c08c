"""Rates fall from block to block, in whatever model holds a backbone."""
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn
from mmhier.apis import MMHierError
from mmhier.models import HATNet
from .config_zoo import build, read, register_all

RATE, LR = 0.9, 1e-3


@pytest.fixture(autouse=True)
def registered_modules():
    register_all()


def rates(model: nn.Module,
          rate=RATE,
          **paramwise) -> dict[str, tuple[float, float]]:
    """(lr, weight decay) of each parameter by name."""
    wrapper = build_optim_wrapper(
        model,
        ConfigDict(
            optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
            constructor='mmhier.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=rate, **paramwise)))
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


@pytest.mark.parametrize('name', [
    'configs/hatnet/hatnet-tiny_8xb128_in1k.py',
    'configs/lit/retinanet_lit-small_fpn_1x_coco.py',
    'configs/hvt/mask-rcnn_hvt-s-2_fpn_1x_coco.py',
    'configs/accvit/upernet_accvit-tiny_160k_ade20k-512x512.py',
])
def test_every_framework(name):
    model = build(read(name), 'meta')
    found = rates(model, flat_decay_mult=0.)
    assert found.keys() == dict(model.named_parameters()).keys()
    last = model.backbone.num_blocks + 1
    exponents = set()
    for key, parameter in model.named_parameters():
        exponent = 0
        if key.startswith('backbone.'):
            depth, _ = model.backbone.get_layer_depth(key, 'backbone.')
            exponent = last - depth
        exponents.add(exponent)
        lr, decay = found[key]
        assert lr == pytest.approx(LR * RATE**exponent), key
        assert decay == (0. if parameter.ndim == 1 else 0.05), key
    assert exponents == set(range(last + 1))


class Pair(nn.Module):
    """Two backbones below names of one's own."""

    def __init__(self):
        super().__init__()
        self.student = nn.ModuleDict(dict(body=HATNet('tiny')))
        self.teacher = HATNet('tiny', out_indices=(0, ))
        self.head = nn.Linear(4, 4)


def test_a_model_of_ones_own():
    init_default_scope('mmengine')
    with torch.device('meta'):
        model = Pair()
    found = rates(model, custom_keys={'head': dict(lr_mult=0.1)})
    stem = 'patch_embed.'
    for prefix, backbone in (('student.body.', model.student['body']),
                             ('teacher.', model.teacher)):
        lr = {
            rate
            for name, (rate, _) in found.items()
            if name.startswith(prefix + stem)
        }
        assert lr == {LR * RATE**(backbone.num_blocks + 1)}
    assert found['head.weight'][0] == pytest.approx(0.1 * LR)


@pytest.mark.parametrize('rate', [None, 0, 1.5, '0.9'])
def test_a_rate_that_cannot_be_used(rate):
    init_default_scope('mmengine')
    with pytest.raises(MMHierError, match='paramwise_cfg.layer_decay_rate='):
        rates(nn.Linear(2, 2), rate)


def test_no_backbone():
    init_default_scope('mmengine')
    with pytest.raises(MMHierError, match='Linear holds no backbone of mmhier'):
        rates(nn.Linear(2, 2))
