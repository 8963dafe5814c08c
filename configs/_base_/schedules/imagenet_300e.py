# DeiT's schedule: 300 epochs, 5 of linear warm-up from 1e-6, then a cosine
# to 1e-5.
#
# Batch 1024 = 8 GPUs x 128 images, lr = 5e-4 x 1024 / 512 = 1e-3.
# ImageNet-1k's 1,281,167 images make an epoch of 1,281,167 / 1024 = 1,252
# iterations. Vectors (norms, biases) have no weight decay.
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        end=300,
        convert_to_iter_based=True)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05, eps=1e-8),
    paramwise_cfg=dict(flat_decay_mult=0.))

# With --auto-scale-lr, lr becomes 1e-3 x (GPUs x batch_size) / 1024.
auto_scale_lr = dict(enable=False, base_batch_size=1024)
