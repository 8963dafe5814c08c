# ACC-ViT's recipe is unknown: this is torchvision's for MaxViT-T, whose layout
# it shares. Batch 4096 = 32 GPUs x 128 images, 313 iterations an epoch; 400
# epochs, lr 3e-3 after 32 epochs of warm-up, cosine to 1e-5, mixup without
# cutmix, TrivialAugment, no erasing, gradients clipped at 1, bias tables
# without weight decay, evaluation at 224 of 224.
#
# Its moving average of the weights, every 32 iterations, is
#   1 - (1 - 0.99998) x 4096 x 32 / 400 = 1 - 0.00655
# of itself.
_base_ = '../../_base_/in1k_224.py'

model = dict(
    backbone=dict(out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='mmhier.ACCViTClsHead'),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/TrivialAugmentWide', interpolation='bicubic'),
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='PackInputs')
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 224
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=400)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=32,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=32,
        end=400,
        convert_to_iter_based=True)
]
optim_wrapper = dict(
    optimizer=dict(lr=3e-3),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=0.00655,
        interval=32,
        update_buffers=True)
]

# With --auto-scale-lr, lr becomes 3e-3 x (GPUs x batch_size) / 4096.
auto_scale_lr = dict(base_batch_size=4096)
