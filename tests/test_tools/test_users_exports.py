"""The program of docs/export.md gives the results of tools/infer.py."""
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmhier import apis
from mmhier.apis.predictor import Predictor
from mmhier.export import export_model
from mmhier.export.exporting import load_model
from ..lanes import slow
from .pages import ROOT, blocks

pytest.importorskip('onnxruntime')
DATA = ROOT.parent / 'shared' / 'data'
BACKBONE = '''dict(
    type='mmhier.LIT',
    arch=dict(
        embed_dims=(16, 16, 16, 16), depths=(1, 1, 1, 1), num_heads=(2, 2),
        mlp_ratios=(2, 2, 2, 2), position='absolute', norm_eps=1e-6),
    {})'''
CLASSIFIER = f'''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone={BACKBONE.format('out_indices=(3, )')},
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=16))
data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root='none', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=80, edge='short', backend='pillow',
             interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs')]))
'''
SEGMENTOR = f'''
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', bgr_to_rgb=True, pad_val=0,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        test_cfg=dict(size_divisor=32)),
    backbone={BACKBONE.format('')},
    decode_head=dict(
        type='FCNHead', in_channels=16, in_index=1, channels=16, num_convs=1,
        num_classes=3),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root='none',
    metainfo=dict(classes=('a', 'b', 'c')), pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(256, 96), keep_ratio=True),
        dict(type='PackSegInputs')]))
visualizer = dict(type='SegLocalVisualizer')
'''
SLIDE = SEGMENTOR + '''
model['test_cfg'] = dict(mode='slide', crop_size=(64, 80), stride=(32, 48))
model['decode_head']['align_corners'] = True
'''
SIGMOID = SEGMENTOR + '''
model['decode_head'].update(
    num_classes=2, out_channels=1, threshold=0.45,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
test_dataloader['dataset']['metainfo'] = dict(classes=('a', 'b'))
test_dataloader['dataset']['pipeline'][1] = dict(
    type='Resize', scale=(120, 96), keep_ratio=False)
'''
DETECTOR = f'''
_base_ = {str(ROOT / 'configs/lit/retinanet_lit-tiny_fpn_1x_coco.py')!r}
model = dict(
    backbone={BACKBONE.format('_delete_=True, out_indices=(1, 2, 3)')},
    neck=dict(in_channels=[16, 16, 16], out_channels=16),
    bbox_head=dict(
        in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
    test_cfg=dict(score_thr=0.01, nms_pre=100000))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 128), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(dataset=dict(
    metainfo=dict(classes=('a', 'b', 'c')), pipeline=test_pipeline))
'''


@pytest.fixture(scope='module')
def program():
    code, = (b for b in blocks('docs/export.md', 'python') if 'predict' in b)
    module = SimpleNamespace(__name__='page')
    exec(compile(code, 'docs/export.md', 'exec'), vars(module))
    return module


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Smooth photos, lying and upright; real ones of a set where there are."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    generated = []
    for i, (height, width) in enumerate(((150, 211), (203, 130))):
        small = rng.integers(0, 256, (7, 9, 3), np.uint8)
        photo = cv2.resize(
            small, (width, height), interpolation=cv2.INTER_CUBIC)
        generated.append(str(folder / f'{i}.png'))
        cv2.imwrite(generated[-1], photo)

    def get(kind: str) -> list[str]:
        if kind == 'generated':
            return generated
        if not DATA.is_dir():
            pytest.skip('no shared/data beside the repository')
        return [str(p) for p in sorted((DATA / kind).rglob('*.jpg'))[:3]]

    return get


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Config, checkpoint and json of an exported model, by its config."""
    found = {}

    def export(text, part='model'):
        if (text, part) in found:
            return found[text, part]
        folder = tmp_path_factory.mktemp('export')
        config, checkpoint = folder / 'config.py', folder / 'weights.pth'
        config.write_text(text)
        model, _ = load_model(str(config), None)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        torch.save(model.state_dict(), checkpoint)
        export_model(
            str(config), str(checkpoint), folder / 'model.onnx', part=part)
        found[text,
              part] = (str(config), str(checkpoint), folder / 'model.onnx.json')
        return found[text, part]

    return export


@pytest.mark.parametrize('kind', ['generated', 'imagenet_mini/val'])
def test_classifier(kind, exported, program, photos, tmp_path):
    config, checkpoint, notes = exported(CLASSIFIER)
    assert json.loads(notes.read_text())['inference']['activation'] == 'none'
    for photo in photos(kind):
        scores = program.predict(notes, photo)[0][0]
        result = apis.infer(
            config, checkpoint, photo, out_dir=str(tmp_path), overwrite=True)
        top = result['images'][0]['top']
        assert [t['label'] for t in top] == scores.argsort()[::-1].tolist()
        for entry in top:
            assert scores[entry['label']] == pytest.approx(
                entry['score'], abs=1e-5)


@pytest.mark.filterwarnings('ignore:test_cfg.mode=slide')
@pytest.mark.parametrize('kind', ['generated', 'ade_mini/images/validation'])
@pytest.mark.parametrize('config, stated', [
    (SEGMENTOR, dict(mode='whole', activation='softmax')),
    slow(SLIDE, dict(mode='slide', crop_size=[64, 80], stride=[32, 48])),
    slow(SIGMOID, dict(activation='sigmoid', threshold=0.45)),
])
def test_segmentor(config, stated, kind, exported, program, photos, tmp_path):
    config, checkpoint, notes = exported(config)
    settings = json.loads(notes.read_text())['inference']
    assert settings.items() >= stated.items()
    for photo in photos(kind):
        labels = program.predict(notes, photo)
        result = apis.infer(
            config, checkpoint, photo, out_dir=str(tmp_path), overwrite=True)
        path = tmp_path / result['images'][0]['labels']
        expected = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert labels.shape == expected.shape
        assert kind != 'generated' or len(np.unique(expected)) > 1
        assert (labels == expected).mean() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['generated', 'coco_mini/val2017'])
def test_detector(kind, exported, program, photos):
    config, checkpoint, notes = exported(DETECTOR)
    predictor = Predictor(config, checkpoint, score_thr=0., device='cpu')
    for photo in photos(kind):
        found = program.predict(notes, photo)
        prediction, = predictor.predict([cv2.imread(photo)])
        expected = prediction.record['instances']
        assert len(found) == len(expected) > 10
        for (label, score, x1, y1, x2, y2), entry in zip(found, expected):
            x, y, width, height = entry['bbox']
            assert label == entry['label']
            assert score == pytest.approx(entry['score'], abs=1e-5)
            assert (x1, y1, x2, y2) == pytest.approx(
                (x, y, x + width, y + height), abs=0.05)


@pytest.mark.slow
def test_backbone(exported, program, photos):
    config, checkpoint, notes = exported(SEGMENTOR, 'backbone')
    predictor = Predictor(config, checkpoint, device='cpu')
    inferencer = predictor.inferencer
    for photo in photos('generated'):
        maps = program.predict(notes, photo)
        data, = inferencer.preprocess([cv2.imread(photo)], batch_size=1)
        images = inferencer.model.data_preprocessor(data, False)['inputs']
        with torch.no_grad():
            expected = inferencer.model.backbone(images)
        for one, other in zip(maps, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=2e-3)
