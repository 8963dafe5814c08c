"""Geometry of detectors in float32 under autocast."""
from contextlib import nullcontext

import mmcv.ops
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn
from mmhier.engine.build import build_model
from mmhier.engine.geometry import keep_geometry_in_float32
from mmhier.engine.runner import Runner
from .config_zoo import ROOT, register_all

HEIGHT, WIDTH = 256, 1344
CHANNELS = 32
STRIDES = [8, 16, 32, 64, 128]
DETECTORS = ('rpn', 'retinanet', 'atss', 'fcos', 'gfl', 'mask-rcnn',
             'cascade-mask-rcnn')


class Pyramid(BaseModule):
    """A convolution and its averages, in place of backbone and neck."""

    def __init__(self, strides):
        super().__init__()
        self.strides = strides
        self.conv = nn.Conv2d(3, CHANNELS, strides[0], strides[0])

    def forward(self, x):
        x = self.conv(x)
        return tuple(
            F.avg_pool2d(x, s // self.strides[0], ceil_mode=True)
            for s in self.strides)


def one_stage(kind, **head):
    anchors = dict(
        type='AnchorGenerator',
        octave_base_scale=4,
        scales_per_octave=3 if kind == 'RetinaNet' else 1,
        ratios=[0.5, 1., 2.] if kind == 'RetinaNet' else [1.],
        strides=STRIDES)
    if kind != 'FCOS':
        head.update(anchor_generator=anchors)
    return dict(
        type=kind,
        neck=None,
        backbone=dict(type=Pyramid, strides=STRIDES),
        bbox_head=dict(
            type=f'{kind.removesuffix("Net")}Head',
            num_classes=5,
            in_channels=CHANNELS,
            feat_channels=CHANNELS,
            stacked_convs=1,
            **head),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0) if kind == 'RetinaNet' else dict(
                    type='ATSSAssigner', topk=9),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False),
        test_cfg=dict(
            nms_pre=500,
            min_bbox_size=0,
            score_thr=0.,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=100))


def detector_config(name):
    if name in ('retinanet', 'atss', 'fcos', 'gfl'):
        kind, head = dict(
            retinanet=('RetinaNet', {}),
            atss=('ATSS', dict(loss_bbox=dict(type='GIoULoss'))),
            fcos=('FCOS', dict(strides=STRIDES)),
            gfl=('GFL',
                 dict(
                     loss_cls=dict(type='QualityFocalLoss'),
                     loss_bbox=dict(type='GIoULoss'),
                     loss_dfl=dict(type='DistributionFocalLoss'))))[name]
        return one_stage(kind, **head)
    base = 'mask-rcnn' if name == 'rpn' else name
    model = Config.fromfile(ROOT / f'configs/_base_/models/{base}_fpn.py').model
    model.update(
        neck=None, type='CascadeRCNN' if 'cascade' in name else 'FasterRCNN')
    model.backbone = dict(type=Pyramid, strides=[4, 8, 16, 32, 64])
    model.rpn_head.update(in_channels=CHANNELS, feat_channels=CHANNELS)
    if name == 'rpn':
        return dict(
            type='RPN',
            neck=None,
            backbone=model.backbone,
            rpn_head=model.rpn_head,
            train_cfg=dict(rpn=model.train_cfg.rpn),
            test_cfg=dict(rpn=model.test_cfg.rpn))
    roi_head = model.roi_head
    for part in ('bbox', 'mask'):
        roi_head[f'{part}_roi_extractor'].out_channels = CHANNELS
    heads = roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=CHANNELS, fc_out_channels=32, num_classes=5)
    roi_head.mask_head.update(
        in_channels=CHANNELS,
        num_convs=1,
        conv_out_channels=CHANNELS,
        num_classes=5)
    model.test_cfg.rcnn.score_thr = 0.
    return model


def fix_logits(model, fcos):
    """Let box heads return the same bfloat16 numbers in any precision."""
    generator = torch.Generator()

    def draw(value, scale):
        if isinstance(value, (list, tuple)):
            return tuple(draw(v, scale) for v in value)
        numbers = torch.randn(value.shape, generator=generator) * scale
        if fcos and value.shape[1] == 4:
            numbers = numbers.abs() * 60
        numbers = numbers.bfloat16().to(value.dtype)
        return numbers + 0 * value if value.requires_grad else numbers

    def hook(module, args, outs):
        generator.manual_seed(sum(map(ord, type(module).__name__)))
        return draw(outs, 0.4)

    for name, module in model.named_modules():
        if name.split('.bbox_head.')[-1].isdigit() or name.endswith(
            ('rpn_head', 'bbox_head')):
            module.register_forward_hook(hook)


@pytest.fixture(scope='module')
def batch():
    generator = torch.Generator().manual_seed(0)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(HEIGHT, WIDTH),
            ori_shape=(HEIGHT, WIDTH),
            pad_shape=(HEIGHT, WIDTH),
            batch_input_shape=(HEIGHT, WIDTH),
            scale_factor=(1., 1.)))
    corners = torch.tensor([[1000., 30.], [1200., 90.], [40., 100.]])
    boxes = torch.cat([corners, corners + torch.tensor([90., 70.])], 1)
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1, 2]))
    images = torch.randn(1, 3, HEIGHT, WIDTH, generator=generator)
    return images, [sample]


def build(name, logits=True):
    register_all()
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        config = detector_config(name)
        if name.startswith(('mask', 'cascade')):
            config.roi_head.pop('mask_head')
            config.roi_head.pop('mask_roi_extractor')
        model = MODELS.build(ConfigDict(config))
    if logits:
        fix_logits(model, name == 'fcos')
    return model


@pytest.fixture
def nms_dtypes(monkeypatch):
    """Dtypes of the boxes, offset by class, and scores that NMS gets."""
    dtypes = set()
    original = mmcv.ops.nms

    def nms(boxes, scores, *args, **kwargs):
        dtypes.update([boxes.dtype, scores.dtype])
        return original(boxes, scores, *args, **kwargs)

    monkeypatch.setitem(mmcv.ops.batched_nms.__globals__, 'nms', nms)
    return dtypes


def run(model, batch, mode, dtype=None):
    """Boxes, scores and labels, or losses."""
    images, samples = batch
    torch.manual_seed(0)
    context = nullcontext() if dtype is None else torch.autocast('cpu', dtype)
    model.train(mode == 'loss')
    with context, torch.set_grad_enabled(mode == 'loss'):
        outs = model(images, [sample.clone() for sample in samples], mode=mode)
    if mode == 'loss':
        losses = {k: v for k, v in outs.items() if 'loss' in k}
        return {
            k: sum(v) if isinstance(v, list) else v
            for k, v in losses.items()
        }
    found = outs[0].pred_instances
    return found.bboxes, found.scores, found.labels


def box_shift(model, batch, dtype):
    """Largest shift of a coordinate in pixels, inf where others are kept."""
    expected = run(model, batch, 'predict')
    found = run(model, batch, 'predict', dtype)
    assert len(expected[0]) > 20
    if expected[0].shape != found[0].shape:
        return float('inf')
    return (expected[0] - found[0]).abs().max().item()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('name', DETECTORS)
def test_boxes_are_those_of_float32(name, dtype, batch, nms_dtypes):
    model = build(name)
    keep_geometry_in_float32(model)
    assert box_shift(model, batch, dtype) < 0.05
    assert nms_dtypes == {torch.float32}


@pytest.mark.parametrize('name', DETECTORS)
def test_losses_are_those_of_float32(name, batch):
    model = build(name)
    keep_geometry_in_float32(model)
    expected = run(model, batch, 'loss')
    found = run(model, batch, 'loss', torch.bfloat16)
    assert expected
    for key, loss in expected.items():
        torch.testing.assert_close(found[key], loss, rtol=1e-4, atol=1e-5)
    sum(found.values()).backward()


def without(model, name):
    """Take the hooks of a module away again."""
    handles = keep_geometry_in_float32(model)
    handles[name].remove()


@pytest.mark.parametrize('name, module', [('rpn', 'bbox_head'),
                                          ('mask-rcnn', 'rpn_head'),
                                          ('retinanet', 'bbox_head'),
                                          ('atss', 'bbox_head'),
                                          ('gfl', 'bbox_head.integral')])
def test_boxes_move_without_the_cast(name, module, batch):
    model = build(name)
    without(model, module)
    assert box_shift(model, batch, torch.bfloat16) > 0.1


@pytest.mark.parametrize('name, module', [('mask-rcnn', 'rpn_head'),
                                          ('retinanet', 'bbox_head')])
def test_nms_is_rounded_without_the_cast(name, module, batch, nms_dtypes):
    model = build(name)
    without(model, module)
    run(model, batch, 'predict', torch.bfloat16)
    assert torch.bfloat16 in nms_dtypes


@pytest.mark.parametrize('is_kept', [True, False])
def test_rois_are_not_rounded(is_kept, batch):
    model = build('mask-rcnn')
    handles = keep_geometry_in_float32(model)
    if not is_kept:
        handles['roi_head.bbox_roi_extractor'].remove()
    extractor = model.roi_head.bbox_roi_extractor
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(1, CHANNELS, HEIGHT // s, WIDTH // s,
                    generator=generator).bfloat16() for s in (4, 8, 16, 32)
    ]
    rois = torch.tensor([[0, 1001.3, 31.2, 1090.7, 99.1]])
    expected = extractor([x.float() for x in maps], rois)
    with torch.autocast('cpu', torch.bfloat16):
        found = extractor(maps, rois=rois)
    assert torch.equal(found, expected) is is_kept


def test_hooks_are_registered_once_and_change_nothing_in_float32(batch):
    model = build('cascade-mask-rcnn')
    expected = run(model, batch, 'predict')
    handles = keep_geometry_in_float32(model)
    assert len(handles) == 7
    assert not keep_geometry_in_float32(model)
    found = run(model, batch, 'predict')
    assert all(map(torch.equal, expected, found))
    assert len(keep_geometry_in_float32(build('cascade-mask-rcnn'))) == 7
    for handle in handles.values():
        handle.remove()
    assert set(keep_geometry_in_float32(model)) == set(handles)
    assert not keep_geometry_in_float32(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_models_are_built_with_the_hooks():
    """By the runners, for inference and by hand alike."""
    register_all()
    cfg = Config(dict(default_scope='mmdet', model=detector_config('atss')))
    built = [build_model(cfg), Runner.build_model(None, cfg.model)]
    built.append(Runner.build_model(None, build('atss', logits=False)))
    for model in built:
        assert not keep_geometry_in_float32(model)
        assert model.bbox_head._forward_hooks
