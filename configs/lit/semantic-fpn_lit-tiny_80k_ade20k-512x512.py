# The authors' recipe: decay to 1e-6, weight decay on every parameter.
_base_ = '../_base_/semantic-fpn_80k_ade20k-512x512.py'

model = dict(backbone=dict(type='mmhier.LIT', arch='tiny', drop_path_rate=0.1))

param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=80000,
        by_epoch=False)
]
