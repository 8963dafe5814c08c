# Does it learn? Semantic FPN trained and evaluated on the same four photos of
# ADE20K, from random weights, in minutes on a CPU:
#   python tools/train.py \
#       configs/hvt/semantic-fpn_hvt-ti-1_overfit_ade-mini.py \
#       --data-root PATH_TO_ADE_MINI
_base_ = './semantic-fpn_hvt-ti-1_80k_ade20k-512x512.py'

lowest_metrics = {'mIoU': 70.}

# A beach, a pond, a hall and a town, as counted in images/training.
indices = [7, 8, 13, 21]
size = (160, 160)

# The backbone is whole; neck and head are slim and images small, for speed.
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(drop_path_rate=0., init_cfg=None),
    neck=dict(out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# Each batch is the whole set.
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(indices=indices, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        indices=indices,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 300
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='PolyLR',
        eta_min=1e-5,
        power=0.9,
        begin=20,
        end=max_iters,
        by_epoch=False)
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))

default_hooks = dict(logger=dict(interval=10))
