_base_ = './semantic-fpn_lit-small_80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5))
