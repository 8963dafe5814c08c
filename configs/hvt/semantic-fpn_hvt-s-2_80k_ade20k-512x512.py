_base_ = './semantic-fpn_hvt-s-1_80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='s-2'))
