# HVT published no dense prediction: this is Swin's recipe, the field's
# standard, with the authors' drop path rate.
_base_ = '../../_base_/upernet_160k_ade20k-512x512.py'

model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))
