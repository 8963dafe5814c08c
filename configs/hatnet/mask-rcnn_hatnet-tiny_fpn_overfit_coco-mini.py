# Does it learn? Mask R-CNN trained and evaluated on the same eight photos of
# COCO train2017, from random weights, in minutes on a CPU:
#   python tools/train.py \
#       configs/hatnet/mask-rcnn_hatnet-tiny_fpn_overfit_coco-mini.py \
#       --data-root PATH_TO_COCO
_base_ = './mask-rcnn_hatnet-tiny_fpn_1x_coco.py'

lowest_metrics = {'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.5}

# A plant in a vase, giraffes, motorcycles, a fire hydrant, donuts, dogs and a
# toilet, a bear.
img_ids = [30, 72, 529, 629, 10256, 24577, 173350, 542720]

# The backbone is whole; neck and heads are slim and images small, for speed.
channels = 64
model = dict(
    backbone=dict(drop_path_rate=0., init_cfg=None),
    neck=dict(out_channels=channels),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=channels),
        mask_head=dict(in_channels=channels, conv_out_channels=channels)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(320, 224), keep_ratio=True),
    dict(type='PackDetInputs')
]
# CocoMetric takes the ground truth from `instances`: the annotation file also
# holds the photos that are left out here, and would count them as missed.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 224), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'instances'))
]

# 2 batches of 4 photos an epoch, 120 epochs: 240 iterations.
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='mmhier.CocoSubset', img_ids=img_ids, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='mmhier.CocoSubset',
        img_ids=img_ids,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=120, val_interval=120)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, milestones=[100], gamma=0.1)
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))

default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=40, max_keep_ckpts=1))
