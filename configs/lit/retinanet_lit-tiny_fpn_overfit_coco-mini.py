# Does it learn? RetinaNet trained and evaluated on the same four photos of
# COCO train2017, from random weights, in minutes on a CPU:
#   python tools/train.py \
#       configs/lit/retinanet_lit-tiny_fpn_overfit_coco-mini.py \
#       --data-root PATH_TO_COCO
_base_ = './retinanet_lit-tiny_fpn_1x_coco.py'

lowest_metrics = {'coco/bbox_mAP': 0.5}

# Two donuts, dogs and a toilet, cows, two birds, all of them wider than
# high: AspectRatioBatchSampler puts no others into one batch.
img_ids = [24577, 173350, 420862, 425988]

# The backbone is whole; neck and head are slim and images small, for speed.
# Group norm, which the usual recipe leaves out: the head starts from random
# weights and has a few hundred iterations.
channels = 64
model = dict(
    backbone=dict(drop_path_rate=0., init_cfg=None),
    neck=dict(out_channels=channels),
    bbox_head=dict(
        in_channels=channels,
        stacked_convs=2,
        feat_channels=channels,
        norm_cfg=dict(type='GN', num_groups=16)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(224, 192), keep_ratio=True),
    dict(type='PackDetInputs')
]
# CocoMetric takes the ground truth from `instances`: the annotation file also
# holds the photos that are left out here, and would count them as missed.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(224, 192), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'instances'))
]

# Each batch is the whole set: an epoch is one iteration.
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='mmhier.CocoSubset', img_ids=img_ids, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='mmhier.CocoSubset',
        img_ids=img_ids,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

max_epochs = 140
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=False,
        begin=20,
        end=max_epochs)
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=5.0))

default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_epochs))
