"""Put a backbone of mmhier into a stock config, train and predict."""
import importlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import ReIDDataSample
from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import nn
from mmhier.datasets.classes import iter_num_classes
from mmhier.engine.build import build_model
from mmhier.errors import MMHierError
from mmhier.models import HATNet
from mmhier.models.backbones.base import HierarchicalBackbone

_LINES = Path(__file__).with_name('stock_configs.txt').read_text().splitlines()
# One config per architecture, which is a folder of stock configs; a few have
# several.
CONFIGS = [line for line in _LINES if ': ' not in line]
# Why the other folders take no backbone.
REASONS = dict(line.split(': ', 1) for line in _LINES if ': ' in line)
# Values that no message names.
OPTIONS: dict[str, dict[str, Any]] = {
    'mmdet/lad/lad_r50-paa-r101_fpn_2xb8_coco_1x': {
        'model.teacher_ckpt': None
    },
    'mmdet/reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20': {
        'model.neck.kernel_size': (4, 4)
    },
    'mmseg/mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024': {
        'model.backbone.output_stride': 8
    },
    'mmdet/yolo/yolov3_mobilenetv2_8xb24-320-300e_coco': {
        'model.backbone.out_indices': (1, 2, 3)
    },
    'mmseg/fastfcn/fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512': {
        'model.decode_head.in_channels': [96, 240, 2048],
        'model.auxiliary_head.in_channels': 240
    },
    'mmpretrain/hrnet/hrnet-w18_4xb32_in1k': {
        'model.backbone.out_indices': (0, 1, 2, 3)
    },
    'mmpretrain/levit/levit-128s_8xb256_in1k': {
        'model.head.distillation': False
    },
    'mmpretrain/mlp_mixer/mlp-mixer-base-p16_64xb64_in1k': {
        'model.neck.dim': 2
    },
}
SIZE = 128
BATCH = 2
# Fewer layers and proposals than the stock configs state, whatever the model;
# channels of maps stay.
QUICK = dict(
    stacked_convs=1,
    num_convs=1,
    nms_pre=50,
    max_per_img=20,
    num_queries=20,
    num_proposals=20)


def configs_of(package: str) -> Path:
    """Folder of the stock configs of mmdet, mmseg or mmpretrain."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    return Path(module.__file__).parent / '.mim' / 'configs'


def read_stock_config(name: str) -> Config:
    """Stock config, such as 'mmdet/atss/atss_r50_fpn_1x_coco', made quick.

    Pretrained weights, which would be downloaded, are left out.
    """
    package, _, path = name.partition('/')
    cfg = Config.fromfile(
        configs_of(package) / f'{path}.py', format_python_code=False)
    cfg.setdefault('default_scope', package)
    init_default_scope(cfg.default_scope)
    _make_quick(cfg.model)
    if cfg.default_scope == 'mmseg':
        # LR-ASPP averages cells of 49x49 pixels of a map.
        size = 448 if 'lraspp' in name else SIZE
        cfg.model.data_preprocessor.size = (size, size)
        cfg.model.test_cfg.mode = 'whole'
    return cfg


def _make_quick(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _make_quick(item)
    elif isinstance(value, dict):
        value.pop('pretrained', None)
        init_cfg = value.get('init_cfg')
        if isinstance(init_cfg, dict) and 'checkpoint' in init_cfg:
            del value['init_cfg']
        if value.get('type') in ('SyncBN', 'MMSyncBN'):
            value['type'] = 'BN'
        for key, item in value.items():
            if key in QUICK and isinstance(item, int) and item > QUICK[key]:
                value[key] = QUICK[key]
            elif key == 'num_layers' and isinstance(item, int) and item > 3:
                value[key] = 2  # of encoders and decoders
            elif key == 'batch_augments':
                value[key] = None  # pads to the size of the dataset
            elif key == 'clip_border':
                value[key] = True  # untrained heads leave the image
            elif key == 'sampler' and item and 'num' in item:
                item['num'] = 16
            _make_quick(item)


def quick_hatnet(cfg: Config) -> dict:
    """HAT-Net tiny of one block a stage, with the maps that a model reads."""
    backbone = dict(
        type='mmhier.HATNet',
        arch=dict(HATNet.arch_zoo['tiny'], depths=(1, 1, 1, 1)))
    stock = next(_iter_holders(cfg.model)).backbone
    if cfg.default_scope == 'mmpretrain':
        backbone['out_indices'] = (3, )
    elif set(stock.get('out_indices', (4, ))) <= set(range(4)):
        backbone['out_indices'] = stock.out_indices
    if 2 in stock.get('dilations', ())[2:]:
        backbone['output_stride'] = 4 * math.prod(stock.strides)
    return backbone


def _iter_holders(model: Any) -> Iterator[Any]:
    """Models of a config that have a backbone, as of a teacher and student."""
    if 'backbone' in model:
        yield model
    for value in model.values():
        if isinstance(value, dict):
            yield from _iter_holders(value)


def use_backbone(
        cfg: Config,
        backbone: dict,
        options: dict[str, Any] | None = None) -> tuple[Any, list[str]]:
    """Swap the backbone of a config, and set all that the messages say.

    Args:
        cfg (Config): Changed in place.
        backbone (dict): In place of the stock one.
        options (dict, optional): Values to set beforehand.

    Returns:
        tuple[nn.Module, list[str]]: The model, its weights initialized, and
        the keys of the config that were set.
    """
    for holder in _iter_holders(cfg.model):
        holder.backbone = backbone
    options = dict(options or {})
    keys = list(options)
    while True:
        cfg.merge_from_dict(options)
        try:
            model = build_model(cfg)
            break
        except MMHierError as error:
            options = {
                key: eval(value, {'dict': dict})
                for key, value in re.findall(r'(model[\w.]*)=(.+?)(?= and |$)',
                                             str(error).split(': set ')[1])
            }
            assert not set(options) & set(keys), f'{error} (set already)'
            keys += options
    model.init_weights()
    return model, keys


def _kinds(model: nn.Module) -> set[str]:
    return {cls.__name__ for cls in type(model).__mro__}


def generated_batch(cfg: Config, model: nn.Module) -> dict:
    """Random images with targets, as a dataloader of the config gives them."""
    classes = max([number for _, number in iter_num_classes(cfg)], default=2)
    make = dict(
        mmdet=_detection_batch,
        mmseg=_segmentation_batch,
        mmpretrain=_classification_batch)[cfg.default_scope]
    return make(cfg, model, classes)


def _detection_batch(cfg: Config, model: nn.Module, classes: int) -> dict:
    kinds = _kinds(model)
    if 'BaseReID' in kinds:
        samples = [ReIDDataSample().set_gt_label(i) for i in range(BATCH)]
        return dict(inputs=torch.stack(_images()), data_samples=samples)
    if 'BaseMOTModel' in kinds:
        return demo_track_inputs(
            num_frames=2,
            key_frames_inds=[0],
            image_shapes=(3, SIZE, SIZE),
            num_classes=classes,
            with_mask=True)
    # The generated labels start from 1 and are stored in a byte.
    data = demo_mm_inputs(
        BATCH, (3, SIZE, SIZE),
        num_items=[3, 4],
        num_classes=min(max(classes, 2), 255),
        with_mask='mask' in str(cfg.model).lower(),
        with_semantic=True)
    for sample in data['data_samples']:
        sample.gt_instances.labels %= classes
        sample.set_metainfo(
            dict(
                homography_matrix=np.eye(3, dtype=np.float32),
                scale_factor=(1., 1.)))
    if 'FastRCNN' in kinds:
        proposals = demo_mm_proposals([(3, SIZE, SIZE)] * BATCH, 20)
        for sample, found in zip(data['data_samples'], proposals):
            sample.proposals = found
    if 'SemiBaseDetector' in kinds and model.training:
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        return {key: dict.fromkeys(branches, data[key]) for key in data}
    return data


def _images(size: int = SIZE) -> list[torch.Tensor]:
    return [
        torch.randint(256, (3, size, size), dtype=torch.uint8)
        for _ in range(BATCH)
    ]


def _segmentation_batch(cfg: Config, model: nn.Module, classes: int) -> dict:
    size = cfg.model.data_preprocessor.size
    samples = []
    for _ in range(BATCH):
        sample = SegDataSample(
            metainfo=dict.fromkeys(('ori_shape', 'img_shape',
                                    'pad_shape'), size))
        sample.gt_sem_seg = PixelData(data=torch.randint(classes, (1, *size)))
        samples.append(sample)
    return dict(inputs=_images(size[0]), data_samples=samples)


def _classification_batch(cfg: Config, model: nn.Module, classes: int) -> dict:
    images = torch.stack(_images())
    samples = [DataSample().set_gt_label(i % classes) for i in range(BATCH)]
    if 'BaseSelfSupervisor' in _kinds(model):
        views = sum(cfg.model.head.loss.get('num_crops', [2]))
        return dict(inputs=[images] * views, data_samples=samples)
    return dict(inputs=images, data_samples=samples)


def train_and_predict(cfg: Config, model: Any) -> None:
    """One training step and one prediction.

    Raises:
        AssertionError: If the loss is not finite, or a parameter of the
            backbone has no gradient.
    """
    torch.manual_seed(0)
    hub = MessageHub.get_current_instance()
    for key, value in dict(epoch=0, iter=0, max_iters=10).items():
        hub.update_info(key, value)
    model.train()
    data = model.data_preprocessor(generated_batch(cfg, model), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    unused = [
        name for backbone in model.modules()
        if isinstance(backbone, HierarchicalBackbone)
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not unused, unused
    torch.optim.SGD(model.parameters(), lr=1e-5).step()
    model.eval()
    # Guided anchoring predicts for one image at a time.
    data = {
        key: value[:1]
        for key, value in generated_batch(cfg, model).items()
    }
    data = model.data_preprocessor(data, False)
    with torch.no_grad():
        if 'BaseSelfSupervisor' in _kinds(model):
            model(data['inputs'][0], data['data_samples'], mode='tensor')
        else:
            model(**data, mode='predict')


def try_stock_config(name: str) -> list[str]:
    """Swap the backbone of a stock config, train and predict.

    Returns:
        list[str]: Keys of the config that had to be set for it.
    """
    torch.manual_seed(0)
    cfg = read_stock_config(name)
    model, keys = use_backbone(cfg, quick_hatnet(cfg), OPTIONS.get(name))
    train_and_predict(cfg, model)
    return keys
