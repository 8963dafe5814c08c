_base_ = './semantic-fpn_hatnet-tiny_80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small'))
