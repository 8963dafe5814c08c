# Mask2Former's 50 epochs on COCO, 368,750 iterations, the learning rate divided
# by 10 after 327,778 and 355,092.
#
# Batch 16 = 8 GPUs x 2 images. No weight decay on norms, queries, level
# embeddings and position tables. The backbone's rates fall by 0.9 from block
# to block; mmdet's Swin has a tenth of the rate in every block.
max_iters = 368750
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_iters,
        by_epoch=False,
        milestones=[327778, 355092],
        gamma=0.1)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05, eps=1e-8),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor='mmhier.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9,
        norm_decay_mult=0.,
        custom_keys={
            'query_embed': dict(decay_mult=0.),
            'query_feat': dict(decay_mult=0.),
            'level_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.)
        }))

# With --auto-scale-lr, lr becomes 1e-4 x (GPUs x batch_size) / 16.
auto_scale_lr = dict(enable=False, base_batch_size=16)
