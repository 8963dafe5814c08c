# A slim HVT that names the shape on a generated picture
# (tools/dataset_tools/generate_shapes.py), from random weights, in minutes on
# a CPU core. Guessing is right for 16.7 % of the pictures.
_base_ = ['./_base_/schedule.py', '../_base_/cls_runtime.py']

classes = ('circle', 'cross', 'ring', 'square', 'star', 'triangle')
data_root = 'data/shapes/'
lowest_metrics = {'accuracy/top1': 40.}

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=len(classes),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='mmhier.HVT',
        arch=dict(embed_dims=96, num_heads=3, depth=6, pool_block_width=6),
        drop_path_rate=0.,
        out_type='avg_featmap'),
    head=dict(
        type='LinearClsHead',
        num_classes=len(classes),
        in_channels=96,
        topk=1,
        loss=dict(type='CrossEntropyLoss')))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192)),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192)),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='classification/train',
        metainfo=dict(classes=classes),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root=data_root,
        data_prefix='classification/val',
        metainfo=dict(classes=classes),
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

# 24 passes over 800 pictures.
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
