# Mask2Former for semantic segmentation of ADE20K's 150 classes. A config adds
# the backbone and decode_head.in_channels, the backbone's.
_base_ = './mask2former.py'

num_classes = 150
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        test_cfg=dict(size_divisor=32)),
    decode_head=dict(
        _base_.mask2former_head,
        num_classes=num_classes,
        align_corners=False,
        train_cfg=_base_.mask2former_matching,
        loss_cls=dict(
            _base_.mask2former_head.loss_cls,
            class_weight=[1.0] * num_classes + [0.1])),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
