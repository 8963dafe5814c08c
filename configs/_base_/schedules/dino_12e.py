# DINO's 12 epochs, the learning rate divided by 10 after epoch 11.
#
# Batch 16 = 8 GPUs x 2 images, train2017's 118,287 images: 7,393 iterations an
# epoch. The backbone's rates fall by 0.9 from block to block, as in
# InternImage's DINO; mmdet's Swin has a tenth of the rate in every block.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=12,
        by_epoch=True,
        milestones=[11],
        gamma=0.1)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='mmhier.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9))

# With --auto-scale-lr, lr becomes 1e-4 x (GPUs x batch_size) / 16.
auto_scale_lr = dict(enable=False, base_batch_size=16)
