# The authors' recipe: a norm on every map, decay to 1e-6, weight decay on every
# parameter; evaluation drops odd rows and columns as theirs does.
_base_ = '../../_base_/semantic-fpn_80k_ade20k-512x512.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3), ceil_mode=False))

param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=80000,
        by_epoch=False)
]
