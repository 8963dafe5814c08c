# The first 20 iterations of configs/demo/hvt-demo_shapes.py,
# as resolved at commit 8c978f2.
default_scope = 'mmpretrain'
data_root = 'data/shapes/'

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
        num_classes=6),
    backbone=dict(
        type='mmhier.HVT',
        arch=dict(embed_dims=96, num_heads=3, depth=6, pool_block_width=6),
        drop_path_rate=0.0,
        out_type='avg_featmap'),
    head=dict(
        type='LinearClsHead',
        in_channels=96,
        num_classes=6,
        topk=1,
        loss=dict(type='CrossEntropyLoss')))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192)),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
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
        metainfo=dict(
            classes=('circle', 'cross', 'ring', 'square', 'star', 'triangle')),
        pipeline=train_pipeline))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=20)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=50,
        end=600,
        eta_min=1e-05)
]

default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=20))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
