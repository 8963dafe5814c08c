# 80,000 iterations, polynomial decay of power 0.9 to 0.
#
# Batch 16 = 8 GPUs x 2 crops. ADE20K's 20,210 training images make an epoch
# of 20,210 / 16 = 1,263 iterations, 63 epochs in all.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='PolyLR',
        eta_min=0.,
        power=0.9,
        begin=0,
        end=80000,
        by_epoch=False)
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4))

# With --auto-scale-lr, lr becomes 1e-4 x (GPUs x batch_size) / 16.
auto_scale_lr = dict(enable=False, base_batch_size=16)
