# The authors' recipe, which is Swin's: 20 warm-up epochs from 5e-7 x 1024 / 512
# = 1e-6, under a cosine that starts with them (1 % below the authors' when the
# warm-up ends, equal after it) and ends at 5e-6 x 1024 / 512 = 1e-5; gradients
# clipped at 5. The offsets of the deformable merging learn at lr x 0.01 (their
# bias at lr).
_base_ = '../../_base_/in1k_224.py'

model = dict(
    backbone=dict(out_type='avg_featmap'), head=dict(type='LinearClsHead'))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=20,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=0,
        end=300,
        convert_to_iter_based=True)
]
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys={'conv_offset.weight': dict(lr_mult=0.01)}))
