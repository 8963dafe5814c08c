# ConvNeXt tiny of timm under the Mask R-CNN of the others, to compare with; any
# model of timm with maps of strides 4, 8, 16 and 32 takes its place. Needs
# `pip install "mmhier[timm]"`. timm fetches the weights.
_base_ = '../_base_/mask-rcnn_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmhier.TimmBackbone',
        arch='convnext_tiny',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained', checkpoint='timm://convnext_tiny.fb_in1k')),
    neck=dict(in_channels=[96, 192, 384, 768]))
