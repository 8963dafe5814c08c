"""List of configs, small models and batches for the tests of configs."""
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules as register_mmpretrain
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules as register_mmseg
from mmhier.datasets.classes import iter_num_classes
from mmhier.engine.build import build_model

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob('configs/**/*.py')
    if '_base_' not in path.parts)
# All but the demos, those that overfit a few photos, those of other backbones,
# and those that are there for how they are written or train.
ZOO = [
    name for name in CONFIGS if not {'demo', 'pure_python', 'timm'}
    & set(Path(name).parts) and 'overfit' not in name and 'fsdp' not in name
]
VARIANTS = [
    f'{family}-{arch}' for family, archs in dict(
        hatnet=('tiny', 'small', 'medium', 'large'),
        lit=('tiny', 'small', 'medium', 'base'),
        litv2=('small', 'medium', 'base'),
        hvt=('ti-1', 's-0', 's-1', 's-2', 's-3', 's-4'),
        accvit=('femto', 'pico', 'nano', 'tiny', 'small', 'base')).items()
    for arch in archs
]
# Of LITv2 with larger windows, for detection alone.
DETECTOR_VARIANTS = [
    f'{variant}-ws4' for variant in VARIANTS if variant.startswith('litv2-')
]
WITH_3X = ('hatnet-small', 'hatnet-medium', 'lit-small', 'lit-medium',
           'litv2-small', 'litv2-medium', 'accvit-tiny', 'accvit-small')
WITH_TRANSFORMERS = ('hatnet-small', 'lit-small', 'lit-base', 'litv2-small',
                     'litv2-base')
HEIGHT, WIDTH = 64, 96


def register_all() -> None:
    """Register the modules of all three frameworks."""
    for register in (register_mmdet, register_mmseg, register_mmpretrain):
        register(init_default_scope=False)


@cache
def _read(name: str) -> Config:
    return Config.fromfile(ROOT / name, format_python_code=False)


def read(name: str) -> Config:
    """Config of a path below the repository, to do with as one likes."""
    return deepcopy(_read(name))


def build(cfg: Config, device: str = 'cpu') -> torch.nn.Module:
    """Model of a config, its weights not initialized."""
    with torch.device(device):
        return build_model(cfg)


def shrink(cfg: Config) -> None:
    """Make a config quick: one block a stage, slim heads, few proposals.

    Widths and names of the backbone stay; so does the depth of HVT, whose
    blocks differ. Stochastic depth, which may skip a parameter, is off.
    """
    model = cfg.model
    if model.backbone.type == 'mmhier.TimmBackbone':
        model.backbone.model_args = dict(depths=(1, 1, 1, 1))
    else:
        backbone_class = MODELS.get(model.backbone.type)
        arch = backbone_class.resolve_arch(model.backbone.arch)
        if 'depths' in arch:
            arch['depths'] = (1, 1, 1, 1)
        model.backbone.arch = arch
    model.backbone.drop_path_rate = 0.
    if 'neck' in model and model.neck.type == 'FPN':
        model.neck.out_channels = 32
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = (HEIGHT, WIDTH)
    if model.type == 'DINO':
        _shrink_dino(model)
    elif model.type == 'Mask2Former':
        model.data_preprocessor.batch_augments = None
        model.train_cfg.num_points = 64
        model.test_cfg.max_per_image = 5
        _shrink_mask2former(model.panoptic_head)
    elif 'pixel_decoder' in model.get('decode_head', {}):
        model.decode_head.train_cfg.num_points = 64
        _shrink_mask2former(model.decode_head)
    elif cfg.default_scope == 'mmdet':
        _shrink_detector(model)
    elif cfg.default_scope == 'mmseg':
        model.decode_head.channels = 32
        if 'neck' in model:
            model.decode_head.in_channels = [32] * 4
        if 'auxiliary_head' in model:
            model.auxiliary_head.channels = 32


def _shrink_layers(transformer: ConfigDict) -> None:
    """One layer of 32 channels."""
    transformer.num_layers = 1
    for part in transformer.layer_cfg.values():
        part.embed_dims = 32
    transformer.layer_cfg.ffn_cfg.feedforward_channels = 32


def _shrink_dino(model: ConfigDict) -> None:
    model.neck.update(out_channels=32, norm_cfg=dict(type='GN', num_groups=4))
    _shrink_layers(model.encoder)
    _shrink_layers(model.decoder)
    model.positional_encoding.num_feats = 16
    model.num_queries = 10
    model.dn_cfg.group_cfg.num_dn_queries = 4
    model.bbox_head.embed_dims = 32
    model.test_cfg.max_per_img = 10


def _shrink_mask2former(head: ConfigDict) -> None:
    head.update(feat_channels=32, out_channels=32, num_queries=10)
    head.pixel_decoder.norm_cfg.num_groups = 4
    _shrink_layers(head.pixel_decoder.encoder)
    _shrink_layers(head.transformer_decoder)
    for part in (head, head.pixel_decoder):
        part.positional_encoding.num_feats = 16


def _shrink_detector(model: ConfigDict) -> None:
    if 'bbox_head' in model:
        model.bbox_head.update(
            in_channels=32, feat_channels=32, stacked_convs=1)
        model.test_cfg.update(score_thr=0., max_per_img=10)
        return
    model.rpn_head.update(in_channels=32, feat_channels=32)
    roi_head = model.roi_head
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.out_channels = 32
    heads = roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=32, fc_out_channels=32)
    roi_head.mask_head.update(num_convs=1, in_channels=32, conv_out_channels=32)
    proposals = dict(nms_pre=50, max_per_img=10)
    # Enough to draw every anchor, so that each level gets a gradient.
    model.train_cfg.rpn.sampler.num = 4096
    model.train_cfg.rpn_proposal.update(proposals)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 16
    model.test_cfg.rpn.update(proposals)
    model.test_cfg.rcnn.update(score_thr=0., max_per_img=5)


def num_classes(cfg: Config) -> int:
    """Number of classes that every head of a config states."""
    numbers = {number for _, number in iter_num_classes(cfg)}
    assert len(numbers) == 1, numbers
    return numbers.pop()


def generated_batch(cfg: Config, num_images: int = 3) -> dict:
    """Random images with targets, as a dataloader of the config gives them."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(
            256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
        for _ in range(num_images)
    ]
    make = dict(
        mmdet=_detection_sample,
        mmseg=_segmentation_sample,
        mmpretrain=_classification_sample)[cfg.default_scope]
    samples = [make(i, num_classes(cfg)) for i in range(num_images)]
    if cfg.default_scope == 'mmpretrain':
        images = torch.stack(images)
    return dict(inputs=images, data_samples=samples)


def _meta(index: int) -> dict:
    size = (HEIGHT, WIDTH)
    return dict(
        img_id=index,
        img_path=f'{index}.jpg',
        ori_shape=size,
        img_shape=size,
        pad_shape=size,
        scale_factor=(1., 1.))


def _detection_sample(index: int, num_classes: int) -> DetDataSample:
    boxes = torch.tensor([[4., 8, 20, 24], [10, 12, 60, 62], [30, 0, 96, 64]])
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([0, index, num_classes - 1]),
        masks=BitmapMasks(masks, HEIGHT, WIDTH))
    sample = DetDataSample(metainfo=_meta(index))
    sample.gt_instances = instances
    return sample


def _segmentation_sample(index: int, num_classes: int) -> SegDataSample:
    labels = torch.arange(HEIGHT * WIDTH).view(1, HEIGHT, WIDTH)
    labels = (labels + index) % num_classes
    labels[:, :4] = 255
    sample = SegDataSample(metainfo=_meta(index))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _classification_sample(index: int, num_classes: int) -> DataSample:
    label = index % num_classes
    return DataSample(metainfo=_meta(index)).set_gt_label(label)
