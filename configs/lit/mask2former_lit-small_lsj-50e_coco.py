_base_ = [
    './_base_/mask2former_lsj-50e_coco.py', '../_base_/backbones/lit-small.py'
]

model = dict(
    backbone=_base_.backbone,
    panoptic_head=dict(in_channels=_base_.in_channels))
