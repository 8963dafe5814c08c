_base_ = [
    './_base_/upernet_160k_ade20k-512x512.py',
    '../_base_/backbones/litv2-medium.py'
]

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels),
    auxiliary_head=dict(in_channels=_base_.in_channels[2]))
