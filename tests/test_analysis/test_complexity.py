"""Multiply-adds: known answers, and the published ones of every variant."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torchvision.ops import DeformConv2d
from mmhier.analysis import count_complexity, count_config_complexity

DINO = Path(__file__).parents[2] / 'configs/demo/dino-4scale_lit-demo_shapes.py'

# Multiply-adds at 224x224 in units of 1e9: LIT and HVT as published and
# measured on the authors' code, ACC-ViT as fitted to the published counts.
GIGA_MACS = {
    'LIT':
    dict(tiny=3.61, small=4.08, medium=8.59, base=15.03),
    'HVT': {
        'ti-1': 0.642,
        's-0': 4.574,
        's-1': 2.402,
        's-2': 1.941,
        's-3': 1.620,
        's-4': 1.394
    },
    'ACCViT':
    dict(
        femto=0.996,
        pico=2.137,
        nano=3.706,
        tiny=5.535,
        small=11.355,
        base=21.880),
}


def classifier_backbone(family, arch):
    """Backbone as in the published classifier; heads cost below 0.1 %."""
    options = {}
    if family == 'HVT':
        options = dict(out_type='avg_featmap')
    elif family == 'LIT':
        out_type = 'cls_token' if arch == 'tiny' else 'avg_featmap'
        options = dict(out_type=out_type)
    return MODELS.build(dict(type=f'mmhier.{family}', arch=arch, **options))


@pytest.mark.parametrize('family, arch, wanted',
                         [(f, a, g) for f, archs in GIGA_MACS.items()
                          for a, g in archs.items()])
def test_macs_are_the_published_ones(family, arch, wanted):
    with torch.device('meta'):
        backbone = classifier_backbone(family, arch)
    cost = count_complexity(backbone)
    assert cost.macs / 1e9 == pytest.approx(wanted, rel=0.01)


class Attention(nn.Module):

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        q = self.project(x.flatten(2).transpose(1, 2)).view(2, -1, 2, 4)
        q = q.transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q)


def test_fused_attention_is_counted():
    model = Attention()
    cost = count_complexity(model, (2, 8, 4, 5))
    tokens = 20
    assert cost.macs == 2 * (tokens * 8 * 8 + 2 * tokens * tokens * 8)
    assert cost.macs_by_module['project'] == 2 * tokens * 8 * 8
    assert cost.params == 64
    assert cost.params_by_module == dict(project=64)


class Deform(DeformConv2d):

    def forward(self, x):
        return super().forward(x, x.new_zeros(1, 8, 5, 4))


def test_deformable_convolution_is_counted():
    model = Deform(3, 7, 2, stride=2)
    assert count_complexity(model, (1, 3, 10, 8)).macs == 5 * 4 * 7 * 3 * 4


def test_mode_and_gradients_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    cost = count_complexity(model, (1, 3, 8, 8))
    assert cost.macs == 6 * 6 * 4 * 27
    assert model.training and not model[1].running_mean.any()
    assert torch.is_grad_enabled()


def test_storage_references_are_not_copied(monkeypatch):
    """A copy frees the storage of the original (torch 2.11), and the process
    ends later with "corrupted double-linked list"."""

    def refuse(reference, memo):
        raise AssertionError('a StorageWeakRef is copied')

    monkeypatch.setattr(StorageWeakRef, '__deepcopy__', refuse, raising=False)
    assert count_config_complexity(Config.fromfile(DINO), (64, 64)).macs > 0
