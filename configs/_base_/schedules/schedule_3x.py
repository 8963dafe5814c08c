# 3x: 36 epochs, the learning rate divided by 10 after epochs 27 and 33.
#
# Batch 16 = 8 GPUs x 2 images; 7,330 iterations an epoch as in
# schedule_1x.py, 36 x 7,330 = 263,880 in all. Optimizer and warm-up are
# Swin's: AdamW, no weight decay on norms and position tables.
_base_ = './schedule_1x.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='MultiStepLR',
        begin=0,
        end=36,
        by_epoch=True,
        milestones=[27, 33],
        gamma=0.1)
]

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.)
        }))
