_base_ = [
    './_base_/mask-rcnn_fpn_1x_coco.py', '../_base_/backbones/litv2-base-ws4.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
