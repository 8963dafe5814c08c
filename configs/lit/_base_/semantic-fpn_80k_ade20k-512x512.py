# The authors' recipe for small, medium and base: a norm on every map, bias
# tables for maps of 32x32 and 16x16 (512 pixels), recomputed blocks, decay to
# 1e-6, weight decay on every parameter.
_base_ = '../../_base_/semantic-fpn_80k_ade20k-512x512.py'

model = dict(backbone=dict(out_norms=(0, 1, 2, 3), bias_size=32, with_cp=True))

param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=0,
        end=80000,
        by_epoch=False)
]
