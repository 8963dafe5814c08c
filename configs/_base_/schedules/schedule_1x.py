# 1x: 12 epochs, the learning rate divided by 10 after epochs 8 and 11.
#
# Batch 16 = 8 GPUs x 2 images. COCO train2017 has 117,266 images with
# annotations, so an epoch has 117,266 / 16 = 7,330 iterations and training
# 12 x 7,330 = 87,960. The warm-up rises linearly from 0.001 x lr to lr over
# the first 500 iterations.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=12,
        by_epoch=True,
        milestones=[8, 11],
        gamma=0.1)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4))

# With --auto-scale-lr, lr becomes 1e-4 x (GPUs x batch_size) / 16.
auto_scale_lr = dict(enable=False, base_batch_size=16)
