# The authors' fine-tuning at 384x384 from the weights of 224x224: 30 epochs, 5
# of warm-up from 2e-8 x 1024 / 512 = 4e-8, lr 2e-5 x 1024 / 512 = 4e-5, down to
# 2e-7 x 1024 / 512 = 4e-7. Images are resized to the square for evaluation,
# whatever their aspect, not cropped.
_base_ = './litv2-base_8xb128_in1k.py'

load_from = 'litv2-base_in1k'

train_pipeline = _base_.train_pipeline
train_pipeline[1]['scale'] = 384
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Resize',
        scale=(384, 384),
        backend='pillow',
        interpolation='bicubic'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=30)
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
        eta_min=4e-7,
        by_epoch=True,
        begin=0,
        end=30,
        convert_to_iter_based=True)
]
optim_wrapper = dict(optimizer=dict(lr=4e-5, weight_decay=1e-8))
