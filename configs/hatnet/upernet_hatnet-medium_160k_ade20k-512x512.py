# HAT-Net published no UperNet: this is Swin's recipe, the field's standard,
# with the drop path rates of the authors' group.
_base_ = [
    '../_base_/upernet_160k_ade20k-512x512.py',
    '../_base_/backbones/hatnet-medium.py'
]

model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.in_channels),
    auxiliary_head=dict(in_channels=_base_.in_channels[2]))
