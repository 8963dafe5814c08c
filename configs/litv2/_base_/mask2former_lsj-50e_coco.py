# LITv2 published no Mask2Former: a norm on every map as in its Semantic FPN.
_base_ = '../../_base_/mask2former_lsj-50e_coco.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3)))
