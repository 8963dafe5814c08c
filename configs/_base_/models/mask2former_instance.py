# Mask2Former for instance segmentation of COCO's 80 classes, trained on images
# of 1024x1024. A config adds the backbone and panoptic_head.in_channels, the
# backbone's. mmdet calls the head panoptic; without stuff it finds instances.
_base_ = './mask2former.py'

num_classes = 80
model = dict(
    type='Mask2Former',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=False,
        batch_augments=[
            dict(
                type='BatchFixedSizePad',
                size=(1024, 1024),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=False)
        ]),
    panoptic_head=dict(
        _base_.mask2former_head,
        num_things_classes=num_classes,
        num_stuff_classes=0,
        loss_cls=dict(
            _base_.mask2former_head.loss_cls,
            class_weight=[1.0] * num_classes + [0.1])),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead',
        num_things_classes=num_classes,
        num_stuff_classes=0,
        loss_panoptic=None),
    train_cfg=_base_.mask2former_matching,
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=100))
