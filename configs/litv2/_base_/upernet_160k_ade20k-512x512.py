# LITv2 published no UperNet: this is Swin's recipe, the field's standard, with
# the norms and drop path rates of the authors' Semantic FPN.
_base_ = '../../_base_/upernet_160k_ade20k-512x512.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3)))
