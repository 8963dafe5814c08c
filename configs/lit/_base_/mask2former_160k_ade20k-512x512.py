# LIT published no Mask2Former: norms, bias tables (maps of 32x32 and 16x16, 512
# pixels) and recomputed blocks as in its Semantic FPN.
_base_ = '../../_base_/mask2former_160k_ade20k-512x512.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3), bias_size=32, with_cp=True))
