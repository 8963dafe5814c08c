# 160,000 iterations as Swin's UperNet: 1,500 of linear warm-up, then linear
# decay to 0; no weight decay on norms and position tables.
#
# Batch 16 = 8 GPUs x 2 crops. ADE20K's 20,210 training images make an epoch
# of 20,210 / 16 = 1,263 iterations, 127 epochs in all.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(
        type='PolyLR',
        eta_min=0.,
        power=1.0,
        begin=1500,
        end=160000,
        by_epoch=False)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.)
        }))

# With --auto-scale-lr, lr becomes 6e-5 x (GPUs x batch_size) / 16.
auto_scale_lr = dict(enable=False, base_batch_size=16)
