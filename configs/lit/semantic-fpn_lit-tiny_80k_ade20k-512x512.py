# The authors' recipe: decay to 1e-6, weight decay on every parameter.
_base_ = [
    '../_base_/semantic-fpn_80k_ade20k-512x512.py',
    '../_base_/backbones/lit-tiny.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))

param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=80000,
        by_epoch=False)
]
