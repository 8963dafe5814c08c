"""Models that are checked on a GPU."""
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from mmhier.analysis.variants import WholeModel, build_variant, load_target
from mmhier.models import backbones
from .rows import ROOT, Rows

# One variant of each family, for checks that do not depend on the size.
ONE_EACH = [('HATNet', 'tiny'), ('LIT', 'small'), ('LITv2', 'small'),
            ('HVT', 's-1'), ('ACCViT', 'tiny')]
TASKS = {
    'Mask R-CNN': 'hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco',
    'RetinaNet': 'hvt/retinanet_hvt-s-1_fpn_1x_coco',
    'RetinaNet of LIT': 'lit/retinanet_lit-small_fpn_1x_coco',
    'Cascade': 'accvit/cascade-mask-rcnn_accvit-tiny_fpn_ms-3x_coco',
    'UperNet': 'accvit/upernet_accvit-tiny_160k_ade20k-512x512',
    'Semantic FPN': 'hatnet/semantic-fpn_hatnet-tiny_80k_ade20k-512x512',
    'classifier': 'hvt/hvt-s-1_8xb128_in1k',
}
DRY_TASKS = {
    'Mask R-CNN': 'demo/mask-rcnn_hatnet-demo_shapes',
    'UperNet': 'demo/upernet_accvit-demo_shapes',
    'classifier': 'demo/hvt-demo_shapes',
}


def all_variants(rows: Rows) -> list[tuple[str, str]]:
    """Families and names of their variants."""
    if rows.is_dry:
        return [('HATNet', 'tiny'), ('ACCViT', 'femto')]
    return [(name, arch) for name in backbones.__all__
            for arch in getattr(backbones, name).arch_zoo]


def backbone(family: str, arch: str, **settings: Any) -> nn.Module:
    """A backbone with initial weights and no random part.

    Offsets of deformable convolutions start at zero, which would hide their
    gradients; they are drawn.
    """
    torch.manual_seed(0)
    model = getattr(backbones, family)(arch, **settings)
    model.init_weights()
    for module in model.modules():
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.
        if hasattr(module, 'conv_offset'):
            nn.init.normal_(module.conv_offset.weight, 0, 0.05)
    return model


def tasks(rows: Rows) -> dict[str, str]:
    """Configs of whole models by task."""
    names = DRY_TASKS if rows.is_dry else TASKS
    return {k: str(ROOT / f'configs/{v}.py') for k, v in names.items()}


def whole_model(path: str, rows: Rows) -> tuple[Config, WholeModel, Tensor]:
    """Config, model in training mode, and images for it."""
    cfg = load_target(path)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    preprocessor.pop('batch_augments', None)
    if cfg.default_scope == 'mmpretrain':
        cfg.model.pop('train_cfg', None)
    module = build_variant(cfg, 'auto', True, rows.device)
    init_default_scope(cfg.default_scope)
    size = dict(
        mmdet=(480, 800), mmseg=(512, 512),
        mmpretrain=(224, 224))[cfg.default_scope]
    if rows.is_dry:
        size = (96, 128)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=generator)
    return cfg, module, images.to(rows.device)


def gradients(module: WholeModel, images: Tensor) -> list[Tensor]:
    """Of all parameters that have one, for a fixed draw of samples."""
    module.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    sum(module(images)).backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the standard deviation."""
    difference = (found.cpu().float() - expected.cpu().float()).abs().max()
    return (difference / expected.float().std().cpu()).item()
