# HAT-Net published no 3x schedule: this is Swin's, the field's standard,
# without its cropping branch.
_base_ = [
    '../_base_/mask-rcnn_fpn_ms-3x_coco.py',
    '../_base_/backbones/hatnet-medium.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
