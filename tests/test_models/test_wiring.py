"""Channels and classes are filled in, kept where they agree, or refused."""
import pytest
from mmdet.utils import register_all_modules
from mmengine.registry import init_default_scope
from mmhier.models.wiring import (
    declared_channels,
    wire_classifier,
    wire_detector,
    wire_segmentor,
)

TINY = dict(type='mmhier.HATNet', arch='tiny')
CHANNELS = [48, 96, 240, 384]


@pytest.fixture(autouse=True)
def scope():
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')


def detector(**parts):
    return dict(
        backbone=dict(TINY),
        neck=dict(type='FPN', out_channels=64, num_outs=5),
        rpn_head=dict(type='RPNHead'),
        roi_head=dict(
            bbox_roi_extractor=dict(type='SingleRoIExtractor'),
            bbox_head=[dict(type='Shared2FCBBoxHead') for _ in range(2)],
            mask_head=dict(type='FCNMaskHead')),
        **parts)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3)])
def test_declared_channels(out_indices):
    backbone = dict(TINY, out_indices=out_indices)
    assert declared_channels(backbone) == tuple(CHANNELS[i]
                                                for i in out_indices)


def test_pretrained_weights_are_not_read_for_them():
    init_cfg = dict(type='Pretrained', checkpoint='/no/such/file.pth')
    assert declared_channels(dict(TINY, init_cfg=init_cfg)) == tuple(CHANNELS)


def test_a_backbone_without_the_contract_is_refused():
    with pytest.raises(ValueError, match='backbone ResNet declares no out_ch'):
        declared_channels(dict(type='ResNet', depth=18))


def test_detector_is_filled_in_and_the_config_left_alone():
    given = detector()
    wired = wire_detector(given, num_classes=7)
    assert given == detector()
    assert wired['neck']['in_channels'] == CHANNELS
    assert wired['rpn_head'] == dict(type='RPNHead', in_channels=64)
    roi_head = wired['roi_head']
    assert roi_head['bbox_roi_extractor']['out_channels'] == 64
    for head in (*roi_head['bbox_head'], roi_head['mask_head']):
        assert (head['in_channels'], head['num_classes']) == (64, 7)


def test_one_stage_detector():
    wired = wire_detector(
        dict(
            backbone=dict(TINY, out_indices=(1, 2, 3)),
            neck=dict(type='FPN', out_channels=32, num_outs=5),
            bbox_head=dict(type='RetinaHead')), 3)
    assert wired['neck']['in_channels'] == CHANNELS[1:]
    assert wired['bbox_head'] == dict(
        type='RetinaHead', in_channels=32, num_classes=3)


def test_given_values_that_agree_are_kept():
    given = detector()
    given['neck']['in_channels'] = tuple(CHANNELS)
    given['roi_head']['mask_head']['num_classes'] = 7
    wired = wire_detector(given, num_classes=7)
    assert wired['neck']['in_channels'] == tuple(CHANNELS)


def test_without_num_classes_the_heads_state_them():
    given = detector()
    given['roi_head']['mask_head']['num_classes'] = 5
    wired = wire_detector(given)
    assert wired['roi_head']['mask_head']['num_classes'] == 5
    assert 'num_classes' not in wired['roi_head']['bbox_head'][0]


@pytest.mark.parametrize('path, value, message', [
    ('neck.in_channels', [64, 128, 320, 512],
     r'neck.in_channels=\[64, 128, 320, 512\] disagrees with out_channels of '
     r'mmhier.HATNet=\[48, 96, 240, 384\]: leave neck.in_channels out'),
    ('rpn_head.in_channels', 256,
     'rpn_head.in_channels=256 disagrees with neck.out_channels=64'),
    ('roi_head.mask_head.in_channels', 256,
     'roi_head.mask_head.in_channels=256 disagrees with neck.out_channels=64'),
    ('roi_head.mask_head.num_classes', 80,
     'roi_head.mask_head.num_classes=80 disagrees with model.num_classes=7'),
])
def test_values_that_disagree_are_refused(path, value, message):
    given = part = detector()
    *parents, key = path.split('.')
    for name in parents:
        part = part[name]
    part[key] = value
    with pytest.raises(ValueError, match=message):
        wire_detector(given, num_classes=7)


def test_a_detector_without_a_neck_is_refused():
    with pytest.raises(ValueError, match='the model has no neck'):
        wire_detector(dict(backbone=TINY, bbox_head=dict()))


def test_segmentor_without_a_neck_reads_the_maps_of_in_index():
    wired = wire_segmentor(
        dict(
            backbone=TINY,
            decode_head=dict(in_index=[0, 1, 2, 3]),
            auxiliary_head=[dict(in_index=2), dict()]), 150)
    assert wired['decode_head']['in_channels'] == CHANNELS
    first, last = wired['auxiliary_head']
    assert (first['in_channels'], last['in_channels']) == (240, 384)
    assert first['num_classes'] == wired['decode_head']['num_classes'] == 150


def test_segmentor_with_a_neck_reads_its_maps():
    wired = wire_segmentor(
        dict(
            backbone=TINY,
            neck=dict(type='FPN', out_channels=16, num_outs=4),
            decode_head=dict(in_index=[0, 1, 2, 3])), 4)
    assert wired['neck']['in_channels'] == CHANNELS
    assert wired['decode_head']['in_channels'] == [16] * 4


def test_segmentor_refuses_a_map_that_is_not_there():
    with pytest.raises(
            ValueError,
            match=r'auxiliary_head.in_index=4: there '
            r'are only 4 maps, of channels \[48, 96, 240, 384\]'):
        wire_segmentor(
            dict(
                backbone=TINY,
                decode_head=dict(in_index=[0, 1, 2, 3]),
                auxiliary_head=dict(in_index=4)))


def test_classifier_and_its_data_preprocessor():
    wired = wire_classifier(
        dict(backbone=TINY, head=dict(type='LinearClsHead')), 10)
    assert wired['head'] == dict(
        type='LinearClsHead', in_channels=384, num_classes=10)
    assert wired['data_preprocessor'] == dict(num_classes=10)
    with pytest.raises(ValueError, match='head.in_channels=48 disagrees'):
        wire_classifier(dict(backbone=TINY, head=dict(in_channels=48)), 10)
    with pytest.raises(ValueError, match='data_preprocessor.num_classes=9'):
        wire_classifier(
            dict(
                backbone=TINY,
                head=dict(),
                data_preprocessor=dict(num_classes=9)), 10)
