# LIT published no UperNet: this is Swin's recipe, the field's standard, with
# the norms, bias tables (maps of 32x32 and 16x16, 512 pixels), recomputed
# blocks and drop path rates of the authors' Semantic FPN.
_base_ = '../../_base_/upernet_160k_ade20k-512x512.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3), bias_size=32, with_cp=True))
