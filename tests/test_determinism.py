"""Operators that CUDA has no deterministic form of are named beforehand."""
import pytest
import torch
from torch import nn
from mmhier.engine import determinism, fsdp
from mmhier.engine import runner as runner_module
from mmhier.engine.determinism import (
    check_deterministic,
    nondeterministic_modules,
)
from mmhier.engine.runner import Runner
from mmhier.errors import MMHierError
from .config_zoo import build, read, register_all, shrink

ROI_ALIGN, DEFORM_CONV, POOL, NLL = ("mmcv's roi_align backward",
                                     'deform_conv2d backward',
                                     'adaptive_avg_pool2d backward',
                                     'nll_loss2d')
SAMPLER, CUMSUM = 'grid_sampler_2d backward', 'cumsum'
COCO, ADE20K = 'fpn_1x_coco', 'ade20k-512x512'


@pytest.fixture
def strict():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize('name, operators', [
    (f'hatnet/mask-rcnn_hatnet-tiny_{COCO}', set()),
    (f'hatnet/retinanet_hatnet-tiny_{COCO}', set()),
    (f'accvit/retinanet_accvit-tiny_{COCO}', set()),
    (f'lit/retinanet_lit-tiny_{COCO}', {DEFORM_CONV}),
    (f'hvt/retinanet_hvt-s-1_{COCO}', set()),
    (f'litv2/retinanet_litv2-small_{COCO}', {DEFORM_CONV}),
    (f'litv2/mask-rcnn_litv2-small_{COCO}', {DEFORM_CONV}),
    ('hatnet/dino-4scale_hatnet-small_12e_coco', {SAMPLER, CUMSUM}),
    (f'litv2/mask2former_litv2-small_160k_{ADE20K}',
     {DEFORM_CONV, SAMPLER, CUMSUM}),
    (f'accvit/upernet_accvit-tiny_160k_{ADE20K}', {POOL, NLL}),
    (f'litv2/upernet_litv2-small_160k_{ADE20K}', {DEFORM_CONV, POOL, NLL}),
    (f'hatnet/semantic-fpn_hatnet-tiny_80k_{ADE20K}', {NLL}),
    ('accvit/accvit-tiny_32xb128_in1k', set()),
    ('litv2/litv2-small_8xb128_in1k', {DEFORM_CONV}),
])
def test_families_and_heads(name, operators, monkeypatch):
    register_all()
    monkeypatch.setattr(determinism, 'operator_source', lambda: 'torchvision')
    cfg = read(f'configs/{name}.py')
    shrink(cfg)
    model = build(cfg, 'meta')
    assert set(nondeterministic_modules(model)) == operators
    monkeypatch.setattr(determinism, 'operator_source', lambda: 'compiled')
    pools = {ROI_ALIGN} if 'mask-rcnn' in name else set()
    assert set(nondeterministic_modules(model)) == operators | pools


def test_only_pooling_to_several_cells_is_named():
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)),
        nn.AdaptiveAvgPool2d(2))
    assert nondeterministic_modules(model) == {POOL: ['2']}


def test_named_where_kernels_must_be_deterministic(strict):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2))
    check_deterministic(model, 'cpu')
    check_deterministic(nn.Sequential(nn.AdaptiveAvgPool2d(1)), 'cuda')
    with pytest.raises(
            MMHierError, match=r'adaptive_avg_pool2d backward \(0\)'):
        check_deterministic(model, 'cuda')
    torch.use_deterministic_algorithms(True, warn_only=True)
    check_deterministic(model, 'cuda')
    torch.use_deterministic_algorithms(False)
    check_deterministic(model, 'cuda')


def test_the_runner_checks_before_training(strict, tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, 'get_device', lambda: 'cuda')
    runner = object.__new__(Runner)
    runner.model = nn.Sequential(nn.AdaptiveAvgPool2d(2))
    with pytest.raises(MMHierError, match='no deterministic form on CUDA'):
        runner.train()


def test_fsdp_checks_before_training(strict, monkeypatch):
    monkeypatch.setattr(fsdp, 'get_device', lambda: 'cuda')
    strategy = object.__new__(fsdp.ResumableFSDPStrategy)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2))
    with pytest.raises(MMHierError, match='no deterministic form on CUDA'):
        strategy.build_optim_wrapper(dict(type='OptimWrapper'), model)
