_base_ = [
    './_base_/semantic-fpn_80k_ade20k-512x512.py',
    '../_base_/backbones/litv2-medium.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
