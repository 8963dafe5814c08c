# The demo: a slim Mask R-CNN with a HAT-Net of a million parameters on the
# generated shapes (tools/dataset_tools/generate_shapes.py), from random
# weights, in minutes on two CPU cores. tools/demo.py runs it.
_base_ = [
    '../_base_/models/mask-rcnn_fpn.py', './_base_/instance_shapes.py',
    '../_base_/default_runtime.py'
]

# Batch norm, which the usual recipe leaves out: pyramid and box head start
# from random weights too, and have a few hundred iterations.
norm_cfg = dict(type='BN')
channels = 48
roi_extractor = dict(
    out_channels=channels, featmap_strides=[4, 8, 16], finest_scale=28)
# Masks of 20x20, from RoIs of 10x10: half the usual cost.
mask_size = 20
model = dict(
    backbone=dict(
        type='mmhier.HATNet',
        # The windows tile the maps of 48, 24 and 12 tokens.
        arch=dict(
            embed_dims=(32, 64, 128, 160),
            depths=(1, 1, 2, 1),
            head_dim=32,
            expansions=(2, 2, 4, 4),
            kernel_sizes=(3, 3, 3, 3),
            grid_sizes=(8, 8, 4, 1),
            ds_ratios=(8, 4, 2, 1))),
    neck=dict(
        in_channels=[32, 64, 128, 160],
        out_channels=channels,
        num_outs=4,
        norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=32,
        # Shapes are 12 to 96 px long, nine in ten at most 1.6 times as long as
        # wide: square anchors of half the usual size, and no P6.
        anchor_generator=dict(
            scales=[4],
            ratios=[1.0],
            strides=[4, 8, 16, 32],
        )),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), **roi_extractor),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            norm_cfg=norm_cfg,
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            # Shared by the classes, boxes and masks are learned in less time.
            reg_class_agnostic=True,
            num_classes=len(_base_.classes)),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=mask_size // 2, sampling_ratio=1),
            **roi_extractor),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            class_agnostic=True,
            num_classes=len(_base_.classes))),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=16, pos_fraction=0.5), mask_size=mask_size)),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=100),
        # Shapes may hide half of one another.
        rcnn=dict(nms=dict(type='soft_nms', iou_threshold=0.5),
                  max_per_img=50)))

train_pipeline = _base_.train_pipeline
train_pipeline[3].update(
    prob=0.75, direction=['horizontal', 'vertical', 'diagonal'])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# 7 passes over 800 pictures.
max_iters = 1400
warmup_iters = 100
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=1.5e-3,
        # The usual 0.999 averages over more iterations than a warm-up has.
        betas=(0.9, 0.98),
        weight_decay=0.05,
        fused=True),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=False,
        begin=0,
        end=warmup_iters),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=warmup_iters,
        end=max_iters,
        eta_min=1e-5)
]

default_hooks = dict(
    logger=dict(interval=10),
    # Two, since the last one is incomplete if its saving was interrupted.
    checkpoint=dict(by_epoch=False, interval=200, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
