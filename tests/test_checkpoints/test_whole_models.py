"""Released LIT and LITv2 dense models become models of mmdet and mmseg.

Names and shapes of necks and heads are those of mmdet 2.11 and mmseg 0.13,
which trained them.
"""
import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine import ConfigDict
from mmseg.registry import MODELS as MMSEG_MODELS
from mmhier.checkpoints import convert_model_state_dict, load_backbone_weights
from mmhier.models.backbones import LIT, HATNet, LITv2
from tests import golden
from tests.reference import lit as reference
from tests.reference import litv2 as reference_v2


def conv(name, out_channels, in_channels, size) -> dict:
    return {
        f'{name}.weight': [out_channels, in_channels, size, size],
        f'{name}.bias': [out_channels]
    }


def linear(name, out_channels, in_channels) -> dict:
    return {
        f'{name}.weight': [out_channels, in_channels],
        f'{name}.bias': [out_channels]
    }


def fpn_shapes(in_channels, extra=()) -> dict:
    """FPN: `extra` are input channels of the levels beyond the laterals."""
    shapes = {}
    for i, channels in enumerate(in_channels):
        shapes.update(conv(f'neck.lateral_convs.{i}.conv', 256, channels, 1))
        shapes.update(conv(f'neck.fpn_convs.{i}.conv', 256, 256, 3))
    for i, channels in enumerate(extra, len(in_channels)):
        shapes.update(conv(f'neck.fpn_convs.{i}.conv', 256, channels, 3))
    return shapes


def retinanet_shapes(dims) -> dict:
    shapes = fpn_shapes(dims[1:], (dims[-1], 256))
    for i in range(4):
        for branch in ('cls', 'reg'):
            shapes.update(
                conv(f'bbox_head.{branch}_convs.{i}.conv', 256, 256, 3))
    shapes.update(conv('bbox_head.retina_cls', 9 * 80, 256, 3))
    shapes.update(conv('bbox_head.retina_reg', 9 * 4, 256, 3))
    return shapes


def mask_rcnn_shapes(dims) -> dict:
    shapes = fpn_shapes(dims)
    shapes.update(conv('rpn_head.rpn_conv', 256, 256, 3))
    shapes.update(conv('rpn_head.rpn_cls', 3, 256, 1))
    shapes.update(conv('rpn_head.rpn_reg', 12, 256, 1))
    shapes.update(linear('roi_head.bbox_head.fc_cls', 81, 1024))
    shapes.update(linear('roi_head.bbox_head.fc_reg', 320, 1024))
    shapes.update(linear('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 49))
    shapes.update(linear('roi_head.bbox_head.shared_fcs.1', 1024, 1024))
    for i in range(4):
        shapes.update(conv(f'roi_head.mask_head.convs.{i}.conv', 256, 256, 3))
    shapes.update(conv('roi_head.mask_head.upsample', 256, 256, 2))
    shapes.update(conv('roi_head.mask_head.conv_logits', 80, 256, 1))
    return shapes


def semantic_fpn_shapes(dims) -> dict:
    shapes = fpn_shapes(dims)
    shapes.update(conv('decode_head.conv_seg', 150, 128, 1))
    # Convolutions to stride 4, an upsampling after each but at stride 4.
    for level, positions in enumerate([(0, ), (0, ), (0, 2), (0, 2, 4)]):
        for i, position in enumerate(positions):
            prefix = f'decode_head.scale_heads.{level}.{position}'
            shapes[f'{prefix}.conv.weight'] = [128, 128 if i else 256, 3, 3]
            for name in ('weight', 'bias', 'running_mean', 'running_var'):
                shapes[f'{prefix}.bn.{name}'] = [128]
            shapes[f'{prefix}.bn.num_batches_tracked'] = []
    return shapes


def fpn(dims, **kwargs) -> dict:
    return dict(type='FPN', in_channels=list(dims), out_channels=256, **kwargs)


def anchors(**kwargs) -> dict:
    return dict(
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[0.5, 1.0, 2.0], **kwargs))


def retinanet(backbone, dims):
    return MMDET_MODELS.build(
        dict(
            type='mmdet.RetinaNet',
            backbone=backbone,
            neck=fpn(
                dims, start_level=1, add_extra_convs='on_input', num_outs=5),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=80,
                in_channels=256,
                **anchors(
                    octave_base_scale=4,
                    scales_per_octave=3,
                    strides=[8, 16, 32, 64, 128]))))


def mask_rcnn(backbone, dims):

    def extractor(size):
        return dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=size),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32])

    return MMDET_MODELS.build(
        dict(
            type='mmdet.MaskRCNN',
            backbone=backbone,
            neck=fpn(dims, num_outs=5),
            rpn_head=dict(
                type='RPNHead',
                in_channels=256,
                **anchors(scales=[8], strides=[4, 8, 16, 32, 64])),
            roi_head=dict(
                type='StandardRoIHead',
                bbox_roi_extractor=extractor(7),
                bbox_head=dict(type='Shared2FCBBoxHead', num_classes=80),
                mask_roi_extractor=extractor(14),
                mask_head=dict(type='FCNMaskHead', num_classes=80)),
            train_cfg=ConfigDict(rpn=None, rcnn=None),
            test_cfg=ConfigDict(rpn=None, rcnn=None)))


def semantic_fpn(backbone, dims):
    return MMSEG_MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            backbone=backbone,
            neck=fpn(dims, num_outs=4),
            decode_head=dict(
                type='FPNHead',
                in_channels=[256] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 16, 32],
                channels=128,
                num_classes=150,
                norm_cfg=dict(type='BN')),
            train_cfg=dict(),
            test_cfg=dict(mode='whole')))


def check_strict_loading(family, backbone, names, build, shapes_of) -> int:
    """Parameters of a model that takes all official weights, each once."""
    dims = family.arch_zoo[backbone['arch']]['embed_dims']
    shapes = {f'backbone.{name}': shape for name, shape in names.items()}
    shapes.update(shapes_of(dims))
    official = {}
    for i, (name, shape) in enumerate(shapes.items()):
        dtype = torch.float32 if shape else torch.int64
        official[name] = torch.full(shape, i, dtype=dtype)

    with torch.device('meta'):
        model = build(backbone, dims)
    model = model.to_empty(device='cpu')
    converted = convert_model_state_dict(official, family)
    model.load_state_dict(converted, strict=True)

    # Every official tensor arrived, once.
    assert sorted(v.flatten()[0].item()
                  for v in converted.values()) == list(range(len(official)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, converted[name]), name
    for name in shapes_of(dims):
        assert torch.equal(converted[name], official[name]), name
    # Converting once more changes nothing.
    again = convert_model_state_dict(converted, family)
    assert {
        n: id(v)
        for n, v in again.items()
    } == {
        n: id(v)
        for n, v in converted.items()
    }
    return sum(p.numel() for p in model.parameters())


DETECTOR = dict(grids=(50, 25), out_norms=(1, 2, 3))
SEGMENTOR = dict(grids=(32, 16), out_norms=(0, 1, 2, 3))


@pytest.mark.parametrize('arch', ['tiny', 'small'])
@pytest.mark.parametrize('build,shapes_of,dense,millions', [
    (retinanet, retinanet_shapes, DETECTOR, {
        'tiny': 30,
        'small': 39
    }),
    (mask_rcnn, mask_rcnn_shapes, DETECTOR, {
        'tiny': 40,
        'small': 48
    }),
    (semantic_fpn, semantic_fpn_shapes, SEGMENTOR, {
        'tiny': 24,
        'small': 32
    }),
])
def test_released_model_loads_strictly(arch, build, shapes_of, dense, millions):
    settings = LIT.arch_zoo[arch]
    backbone = dict(type='mmhier.LIT', arch=arch)
    if arch == 'tiny':
        names = reference.official_shapes_tiny(settings)
    else:
        names = reference.official_shapes_swin_like(settings, **dense)
        backbone.update(
            bias_size=dense['grids'][0], out_norms=dense['out_norms'])
    params = check_strict_loading(LIT, backbone, names, build, shapes_of)
    assert round(params / 1e6) == millions[arch]


@pytest.mark.parametrize('build,shapes_of,out_norms,params', [
    (retinanet, retinanet_shapes, (1, 2, 3), 38_014_252),
    (mask_rcnn, mask_rcnn_shapes, (1, 2, 3), 47_350_056),
    (semantic_fpn, semantic_fpn_shapes, (0, 1, 2, 3), 31_449_486),
])
def test_released_litv2_loads_strictly(build, shapes_of, out_norms, params):
    names = reference_v2.official_shapes(
        LITv2.arch_zoo['small'], out_norms=out_norms)
    backbone = dict(type='mmhier.LITv2', arch='small', out_norms=out_norms)
    assert params == check_strict_loading(LITv2, backbone, names, build,
                                          shapes_of)


def test_other_families_are_refused():
    names = reference.official_shapes_tiny(LIT.arch_zoo['tiny'])
    official = {f'backbone.{name}': torch.zeros(1) for name in names}
    assert convert_model_state_dict(official, HATNet) is None
    assert convert_model_state_dict({'x': torch.zeros(1)}, LIT) is None


def test_backbone_loads_from_a_detector_file(tmp_path):
    settings = dict(LIT.arch_zoo['small'], embed_dims=(8, 8, 12, 24))
    shapes = reference.official_shapes_swin_like(settings, **DETECTOR)
    weights = {
        f'backbone.{name}': torch.as_tensor(golden.fill(name, tuple(shape)))
        for name, shape in shapes.items()
    }
    weights['neck.lateral_convs.0.conv.bias'] = torch.zeros(256)
    path = tmp_path / 'retina_lit_s.pth'
    torch.save(dict(state_dict=weights, meta=dict(epoch=12)), path)
    backbone = LIT(
        settings,
        bias_size=50,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{name}']), name
    report = load_backbone_weights(backbone, path)
    assert report.fraction == 1
    assert not (report.missing or report.new or report.resized)
    assert report.unused == ['neck.lateral_convs.0.conv.bias']
