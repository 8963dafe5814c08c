# The authors' recipe: float32, weight decay on every parameter.
# lr 2e-4 for the batch of 16.
_base_ = [
    '../_base_/mask-rcnn_fpn_1x_coco.py', '../_base_/backbones/lit-tiny.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
