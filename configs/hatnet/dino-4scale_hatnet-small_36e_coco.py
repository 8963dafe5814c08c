_base_ = [
    '../_base_/dino-4scale_36e_coco.py', '../_base_/backbones/hatnet-small.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels[1:]))
