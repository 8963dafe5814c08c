_base_ = [
    '../_base_/mask2former_160k_ade20k-512x512.py',
    '../_base_/backbones/hatnet-small.py'
]

model = dict(
    backbone=_base_.backbone, decode_head=dict(in_channels=_base_.in_channels))
