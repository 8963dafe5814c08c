_base_ = './semantic-fpn_accvit-tiny_80k_ade20k-512x512.py'

model = dict(backbone=dict(arch='femto', drop_path_rate=0.1))
