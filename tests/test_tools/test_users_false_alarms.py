"""The dry run finds no error where there is none."""
import json
from pathlib import Path

import cv2
import mmdet
import mmpretrain
import mmseg
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmhier.apis import check_config
from mmhier.datasets import generate_shapes
from ..config_zoo import CONFIGS, ZOO, read, register_all, shrink

pytestmark = pytest.mark.zoo
ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / 'shared' / 'data'
SIZES = ((64, 96), (96, 64), (80, 80), (64, 64), (96, 96))
SMALL = dict(
    type='mmhier.HATNet',
    arch=dict(
        embed_dims=(16, 16, 32, 32),
        depths=(1, 1, 1, 1),
        head_dim=16,
        expansions=(2, 2, 2, 2),
        kernel_sizes=(3, 3, 3, 3),
        grid_sizes=(8, 7, 7, 1),
        ds_ratios=(8, 4, 2, 1)))
CHANNELS = [16, 16, 32, 32]


def photo(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def write_coco(root: Path) -> None:
    rng = np.random.default_rng(0)
    classes = CocoDataset.METAINFO['classes']
    for split in ('train2017', 'val2017'):
        (root / split).mkdir(parents=True)
        (root / 'annotations').mkdir(exist_ok=True)
        content = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i, name=n) for i, n in enumerate(classes, 1)])
        for i, (height, width) in enumerate(SIZES, 1):
            cv2.imwrite(
                str(root / split / f'{i}.jpg'), photo(rng, height, width))
            content['images'].append(
                dict(id=i, file_name=f'{i}.jpg', width=width, height=height))
            for j in range(16):
                x, y = (int(v) for v in rng.integers(0, 30, 2))
                content['annotations'].append(
                    dict(
                        id=len(content['annotations']) + 1,
                        image_id=i,
                        category_id=(16 * (i - 1) + j) % 80 + 1,
                        bbox=[x, y, 24, 28],
                        area=24 * 28,
                        iscrowd=0,
                        segmentation=[[
                            x, y, x + 24, y, x + 24, y + 28, x, y + 28
                        ]]))
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(content))


def write_ade(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i, (height, width) in enumerate(SIZES):
            cv2.imwrite(
                str(root / 'images' / split / f'{i}.jpg'),
                photo(rng, height, width))
            mask = np.arange(height * width).reshape(height, width) // 20 % 151
            cv2.imwrite(
                str(root / 'annotations' / split / f'{i}.png'),
                mask.astype(np.uint8))


def write_imagenet(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for i in range(1000):
            folder = root / split / f'n{i:08d}'
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / '0.jpg'), photo(rng, *SIZES[i % 2]))


@pytest.fixture(scope='module')
def roots(tmp_path_factory) -> dict[str, Path]:
    """Generated data in the layouts of COCO, ADE20K and ImageNet."""
    found = {}
    for scope, write in (('mmdet', write_coco), ('mmseg', write_ade),
                         ('mmpretrain', write_imagenet)):
        found[scope] = tmp_path_factory.mktemp(scope) / 'data'
        write(found[scope])
    return found


def shrink_images(value, key: str = ''):
    """Scales of at most 128 pixels and crops of 64, in a pipeline."""
    if isinstance(value, dict):
        for name in value:
            value[name] = shrink_images(value[name], name)
    elif key in ('scale', 'scales', 'crop_size', 'size'):
        if isinstance(value,
                      (list, tuple)) and isinstance(value[0], (list, tuple)):
            return [shrink_images(item, key) for item in value]
        most = 64 if key in ('crop_size', 'size') else 128
        if isinstance(value, (list, tuple)):
            return tuple(min(most, v) for v in value)
        return min(most, value)
    elif isinstance(value, (list, tuple)):
        return [shrink_images(item, key) for item in value]
    return value


def errors(cfg: Config, folder: Path, **options) -> list[str]:
    """Errors of a config, whose images and batches are made small."""
    for phase in ('train', 'val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        # mmseg stacks no images of several sizes in a test.
        loader.update(
            batch_size=2 if phase == 'train' else 1,
            num_workers=0,
            persistent_workers=False)
        loader.pop('prefetch_factor', None)
        shrink_images(loader, 'loader')
    path = folder / 'config.py'
    cfg.dump(path)
    findings = check_config(str(path), from_scratch=True, **options)
    return [f'{f.subject}: {f.message}' for f in findings if f.level == 'error']


@pytest.mark.parametrize('name', ZOO)
def test_zoo(name, roots, tmp_path):
    register_all()
    cfg = read(name)
    shrink(cfg)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
    assert not errors(cfg, tmp_path, data_root=str(roots[cfg.default_scope]))


@pytest.mark.parametrize('name', [n for n in CONFIGS if 'demo' in n])
def test_demo(name, tmp_path):
    root = tmp_path / 'shapes'
    generate_shapes(str(root), 16, 16)
    findings = check_config(
        str(ROOT / name), data_root=str(root), from_scratch=True)
    assert not [f for f in findings if f.level == 'error']


@pytest.mark.skipif(
    not DATA.is_dir(), reason='no shared/data beside the repository')
@pytest.mark.parametrize('name, data, classes', [
    ('configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py', 'coco_mini', None),
    ('configs/lit/upernet_lit-tiny_160k_ade20k-512x512.py', 'ade_mini', None),
    ('configs/lit/lit-tiny_8xb128_in1k.py', 'imagenet_mini', 'auto'),
])
def test_real_photos(name, data, classes, tmp_path):
    register_all()
    cfg = read(name)
    shrink(cfg)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
    assert not errors(
        cfg, tmp_path, data_root=str(DATA / data), classes=classes)


FPN = dict(backbone=SMALL, neck=dict(in_channels=CHANNELS))
SEG = dict(norm_cfg=dict(type='BN', requires_grad=True))


def decode(**head):
    return dict(
        backbone=SMALL,
        data_preprocessor=dict(size=(64, 64)),
        decode_head=dict(norm_cfg=SEG['norm_cfg'], **head),
        auxiliary_head=dict(norm_cfg=SEG['norm_cfg'], in_channels=32))


STOCK = [
    (mmdet, 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', FPN),
    (mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', FPN),
    (mmdet, 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', FPN),
    (mmdet, 'retinanet/retinanet_r50_fpn_1x_coco', FPN),
    (mmdet, 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', FPN),
    (mmdet, 'atss/atss_r50_fpn_1x_coco', FPN),
    (mmseg, 'upernet/upernet_r50_4xb4-80k_ade20k-512x512',
     decode(in_channels=CHANNELS)),
    (mmseg, 'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512', decode(in_channels=32)),
    (mmseg, 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512',
     decode(in_channels=32)),
    (mmseg, 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512',
     dict(FPN, data_preprocessor=dict(size=(64, 64)))),
    (mmpretrain, 'resnet/resnet50_8xb32_in1k',
     dict(backbone=dict(SMALL, out_indices=(3, )), head=dict(in_channels=32))),
    (mmpretrain, 'resnet/resnet50_8xb256-rsb-a1-600e_in1k',
     dict(backbone=dict(SMALL, out_indices=(3, )), head=dict(in_channels=32))),
]


@pytest.mark.parametrize('package, name, model', STOCK)
def test_stock_configs(package, name, model, roots, tmp_path):
    folder = Path(package.__file__).parent / '.mim' / 'configs'
    cfg = Config.fromfile(folder / f'{name}.py')
    for key, value in model.items():
        if key == 'backbone':
            cfg.model.backbone = value
        elif key in cfg.model:
            cfg.model[key].update(value)
    if package is mmseg:
        cfg.model.pretrained = None
    if 'auxiliary_head' in cfg.model:
        cfg.model.auxiliary_head.in_index = 2
    root = roots[package.__name__]
    scope = cfg.default_scope
    options = dict(data_root=str(root))
    if scope == 'mmpretrain':
        for phase in ('train', 'val', 'test'):
            cfg[f'{phase}_dataloader'].dataset.data_root = str(root)
        options = {}
    assert not errors(cfg, tmp_path, **options)
