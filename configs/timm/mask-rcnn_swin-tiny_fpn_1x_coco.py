# Swin tiny of timm, as in mask-rcnn_convnext-tiny_fpn_1x_coco.py.
_base_ = '../_base_/mask-rcnn_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmhier.TimmBackbone',
        arch='swin_tiny_patch4_window7_224',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://swin_tiny_patch4_window7_224.ms_in1k')),
    neck=dict(in_channels=[96, 192, 384, 768]))
