# HVT published no dense prediction: this is the recipe of PVT and its
# successors, the field's standard, with the authors' drop path rate.
_base_ = '../../_base_/semantic-fpn_80k_ade20k-512x512.py'

model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))
