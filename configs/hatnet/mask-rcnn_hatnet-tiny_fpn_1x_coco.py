# HAT-Net published no detection configs: these follow PVT and P2T (the same
# group), whose training code the authors name. No gradient clipping.
_base_ = [
    '../_base_/mask-rcnn_fpn_1x_coco.py', '../_base_/backbones/hatnet-tiny.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
