# The first 20 iterations of configs/demo/upernet_accvit-demo_shapes.py,
# as resolved at commit 8c978f2.
default_scope = 'mmseg'
data_root = 'data/shapes/'

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(96, 96)),
    backbone=dict(
        type='mmhier.ACCViT',
        arch=dict(
            embed_dims=(16, 32, 64, 128),
            depths=(1, 1, 2, 1),
            dilations=((1, 2), (1, 2), (1, ), (1, )),
            stem_channels=16,
            head_dim=16),
        norm_cfg=dict(type='BN', momentum=0.1)),
    decode_head=dict(
        type='UPerHead',
        in_channels=[16, 32, 64, 128],
        num_classes=7,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=[0.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=64,
        num_classes=7,
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=0.4,
            class_weight=[0.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(96, 96)),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        metainfo=dict(
            classes=('other', 'circle', 'cross', 'ring', 'square', 'star',
                     'triangle')),
        pipeline=train_pipeline))

train_cfg = dict(type='IterBasedTrainLoop', max_iters=20)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=50,
        end=800,
        eta_min=1e-05)
]

default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=20))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
