_base_ = ['./_base_/in1k_224.py', '../_base_/backbones/lit-base.py']

model = dict(
    backbone=dict(_base_.backbone, with_cp=True, init_cfg=None),
    head=dict(in_channels=_base_.in_channels[-1]))
