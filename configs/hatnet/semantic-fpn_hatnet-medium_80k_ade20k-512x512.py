_base_ = './semantic-fpn_hatnet-tiny_80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
