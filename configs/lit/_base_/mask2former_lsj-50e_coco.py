# LIT published no Mask2Former: a norm on every map as in its Semantic FPN, bias
# tables for maps of 64x64 and 32x32 (1024 pixels), recomputed blocks.
_base_ = '../../_base_/mask2former_lsj-50e_coco.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3), bias_size=64, with_cp=True))
