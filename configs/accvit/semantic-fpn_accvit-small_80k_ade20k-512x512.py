# ACC-ViT's segmentation settings are unknown: this is the recipe of PVT and
# its successors, the field's standard.
_base_ = [
    '../_base_/semantic-fpn_80k_ade20k-512x512.py',
    '../_base_/backbones/accvit-small.py'
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=_base_.in_channels))
