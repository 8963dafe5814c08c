"""One function builds the model of a config, and checks its channels."""
import re

import pytest
import torch
from mmengine.config import Config
from mmhier.apis import MMHierError, load_config
from mmhier.engine.build import build_model
from .config_zoo import ROOT, ZOO, build, read, register_all

SMALL_CHANNELS = [64, 128, 320, 512]
DETECTOR = 'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py'
SEGMENTOR = 'configs/hatnet/upernet_hatnet-tiny_160k_ade20k-512x512.py'
SEMANTIC_FPN = 'configs/hatnet/semantic-fpn_hatnet-tiny_80k_ade20k-512x512.py'
CLASSIFIER = 'configs/hatnet/hatnet-tiny_8xb128_in1k.py'


@pytest.fixture(autouse=True)
def registered_modules():
    register_all()


def changed(name: str, **options) -> Config:
    cfg = read(name)
    cfg.merge_from_dict({
        key.replace('__', '.'): v
        for key, v in options.items()
    })
    return cfg


@pytest.mark.parametrize('name, options, message', [
    (DETECTOR, dict(model__backbone__arch='small'),
     'model.neck.in_channels=[48, 96, 240, 384] but mmhier.HATNet('
     "arch='small') returns [64, 128, 320, 512]: set "
     'model.neck.in_channels=[64, 128, 320, 512]'),
    (DETECTOR, dict(model__backbone__out_indices=(1, 2, 3)),
     'model.neck.in_channels=[48, 96, 240, 384] but mmhier.HATNet('
     "arch='tiny', out_indices=(1, 2, 3)) returns [96, 240, 384]: set "
     'model.neck.in_channels=[96, 240, 384]'),
    (DETECTOR, dict(model__neck__out_channels=64),
     'model.rpn_head.in_channels=256 and model.roi_head.bbox_head.in_channels='
     '256 and model.roi_head.mask_head.in_channels=256 and model.roi_head.'
     'bbox_roi_extractor.out_channels=256 and model.roi_head.'
     'mask_roi_extractor.out_channels=256 but model.neck.out_channels=64: set '
     'model.rpn_head.in_channels=64 and'),
    (SEGMENTOR, dict(model__backbone__arch='small'),
     'model.decode_head.in_channels=[48, 96, 240, 384] and '
     'model.auxiliary_head.in_channels=240 but mmhier.HATNet('
     "arch='small') returns [64, 128, 320, 512]: set "
     'model.decode_head.in_channels=[64, 128, 320, 512] and '
     'model.auxiliary_head.in_channels=320'),
    (SEGMENTOR, dict(model__auxiliary_head__in_index=4),
     'model.auxiliary_head.in_index=4: the backbone returns only 4 maps, of '
     'channels [48, 96, 240, 384]'),
    (SEMANTIC_FPN, dict(model__neck__out_channels=64),
     'model.decode_head.in_channels=[256, 256, 256, 256] but '
     'model.neck.out_channels=64: set model.decode_head.in_channels='
     '[64, 64, 64, 64]'),
    (CLASSIFIER, dict(model__backbone__arch='small'),
     "model.head.in_channels=384 but mmhier.HATNet(arch='small', "
     'out_indices=(3,)) returns [512]: set model.head.in_channels=512'),
    (CLASSIFIER, dict(model__neck=None),
     "model.neck is missing: mmhier.HATNet(arch='tiny', out_indices=(3,)) "
     'returns maps, DropoutClsHead expects vectors: set model.neck=dict('
     "_delete_=True, type='GlobalAveragePooling')"),
])
def test_other_channels_than_the_backbone_returns(name, options, message):
    with pytest.raises(MMHierError, match=re.escape(message)):
        build(changed(name, **options), 'meta')


def test_the_message_says_what_helps(tmp_path):
    cfg = load_config(
        str(ROOT / DETECTOR),
        work_dir=str(tmp_path),
        cfg_options={
            'model.backbone.arch': 'small',
            'model.neck.in_channels': SMALL_CHANNELS
        })
    assert build(cfg, 'meta').backbone.out_channels == tuple(SMALL_CHANNELS)


def test_a_model_inside_a_wrapper_is_checked():
    cfg = changed(DETECTOR, model__backbone__arch='small')
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    with pytest.raises(
            MMHierError, match='model.module.neck.in_channels=.*small'):
        build(cfg, 'meta')


def test_other_backbones_are_not_checked():
    cfg = read(DETECTOR)
    cfg.model.backbone = dict(type='ResNet', depth=18)
    assert build(cfg, 'meta').neck.in_channels == [48, 96, 240, 384]


def test_a_neck_that_starts_from_the_last_map():
    backbone = dict(type='mmhier.HATNet', arch='tiny', out_indices=(1, 2, 3))
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(
                type='YOLOV3',
                backbone=backbone,
                neck=dict(
                    type='YOLOV3Neck',
                    num_scales=3,
                    in_channels=[384, 240, 96],
                    out_channels=[64, 32, 16]),
                bbox_head=dict(
                    type='YOLOV3Head',
                    num_classes=3,
                    in_channels=[64, 32, 16],
                    out_channels=[64, 32, 16]))))
    assert build(cfg, 'meta').neck.in_channels == [384, 240, 96]


def maps_of_tiny(*out_indices: int) -> dict:
    return dict(type='mmhier.HATNet', arch='tiny', out_indices=out_indices)


@pytest.mark.parametrize('scope, model, message', [
    ('mmseg',
     dict(
         type='EncoderDecoder',
         backbone=maps_of_tiny(0, 3),
         decode_head=dict(
             type='DepthwiseSeparableASPPHead',
             in_channels=2048,
             in_index=1,
             channels=8,
             num_classes=2,
             c1_in_channels=256,
             c1_channels=8)), 'model.decode_head.in_channels=2048 and '
     'model.decode_head.c1_in_channels=256 but .* set '
     'model.decode_head.in_channels=384 and '
     'model.decode_head.c1_in_channels=48'),
    ('mmdet',
     dict(
         type='SSD',
         backbone=maps_of_tiny(1, 2),
         neck=dict(
             type='SSDNeck',
             in_channels=(512, 1024),
             out_channels=(512, 1024, 512))),
     r'model.neck.in_channels=\(512, 1024\) and .* but .* set '
     r'model.neck.in_channels=\(96, 240\) and '
     r'model.neck.out_channels=\(96, 240, 512\)'),
    ('mmdet',
     dict(
         type='YOLOV3',
         backbone=maps_of_tiny(1, 2, 3),
         neck=dict(type='YOLOV3Neck', in_channels=[1024, 512, 256])),
     r'set model.neck.in_channels=\[384, 240, 96\]'),
    ('mmdet',
     dict(
         type='FasterRCNN',
         backbone=maps_of_tiny(3),
         rpn_head=dict(type='RPNHead', in_channels=2048),
         roi_head=dict(
             bbox_roi_extractor=dict(out_channels=2048),
             bbox_head=dict(in_channels=2048))),
     'set model.rpn_head.in_channels=384 and model.roi_head.bbox_head.'
     'in_channels=384 and model.roi_head.bbox_roi_extractor.out_channels=384'),
    ('mmdet',
     dict(
         type='QDTrack',
         detector=dict(
             backbone=maps_of_tiny(3),
             neck=dict(type='FPN', in_channels=[2048]))),
     r'model.detector.neck.in_channels=\[2048\] but .* returns \[384\]: set '),
])
def test_channels_in_other_places(scope, model, message):
    """Before mmdet asserts them without a message."""
    with pytest.raises(MMHierError, match=message):
        build_model(Config(dict(default_scope=scope, model=model)))


def test_a_backbone_alone():
    cfg = Config(dict(model=dict(type='mmhier.HATNet', arch='tiny')))
    assert build(cfg, 'meta').out_channels == (48, 96, 240, 384)


@pytest.mark.parametrize('own, top, mean', [
    (None, [1., 2., 3.], [1., 2., 3.]),
    ([4., 5., 6.], [1., 2., 3.], [4., 5., 6.]),
])
def test_a_data_preprocessor_at_the_top_level(own, top, mean):
    """mmpretrain's own configs state it there."""
    cfg = read(CLASSIFIER)
    del cfg.model['data_preprocessor']
    if own is not None:
        cfg.model.data_preprocessor = dict(mean=own, std=[1.] * 3)
    cfg.data_preprocessor = dict(num_classes=1000, mean=top, std=[1.] * 3)
    before = cfg.to_dict()
    model = build_model(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == mean
    # mmpretrain writes into the dicts that it is given.
    assert cfg.to_dict() == before


@pytest.mark.parametrize('kind, successor', [
    ('MaskRCNN', 'mmdet.MaskRCNN'),
    ('CascadeRCNN', 'mmdet.CascadeRCNN'),
    ('RetinaNet', 'mmdet.RetinaNet'),
    ('EncoderDecoder', 'mmseg.EncoderDecoder'),
    ('ImageClassifier', 'mmpretrain.ImageClassifier'),
])
def test_a_type_that_mmhier_no_longer_has(kind, successor, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"model = dict(type='mmhier.{kind}', num_classes=3)\n")
    message = (f"model.type='mmhier.{kind}' is now '{successor}': state the "
               'in_channels .*instead of model.num_classes .*num_classes')
    with pytest.raises(MMHierError, match=message):
        load_config(str(path), work_dir=str(tmp_path))
    with pytest.raises(MMHierError, match=message):
        build_model(Config.fromfile(path))


@pytest.mark.parametrize('name', [n for n in ZOO if '-tiny' in n][:1])
def test_same_draws_as_the_registry(name):
    """Checking channels takes no random numbers."""
    from mmengine.registry import MODELS
    cfg = read(name)
    torch.manual_seed(0)
    first = build_model(cfg).state_dict()
    torch.manual_seed(0)
    second = MODELS.build(cfg.model).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
