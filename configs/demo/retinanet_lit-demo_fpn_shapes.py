# A slim RetinaNet with a LIT of a million parameters on the generated shapes
# (tools/dataset_tools/generate_shapes.py), from random weights, in minutes on
# a CPU core. A detector that finds every shape but cannot tell the six classes
# apart stays far below `lowest_metrics`.
_base_ = [
    '../_base_/models/retinanet_fpn.py', './_base_/detection_shapes.py',
    './_base_/schedule.py', '../_base_/default_runtime.py'
]

lowest_metrics = {'coco/bbox_mAP': 0.3}

channels = 64
model = dict(
    backbone=dict(
        type='mmhier.LIT',
        arch=dict(
            embed_dims=(32, 64, 128, 160),
            depths=(1, 1, 2, 1),
            num_heads=(4, 5),
            mlp_ratios=(4, 4, 4, 4),
            position='relative',
            norm_eps=1e-6),
        # Maps of 12 and 6 tokens a side.
        bias_size=12),
    # Shapes are 12 to 96 px long: strides 8, 16 and 32 do, with smaller
    # anchors than usual.
    neck=dict(
        in_channels=[32, 64, 128, 160],
        out_channels=channels,
        add_extra_convs=False,
        num_outs=3,
        norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=len(_base_.classes),
        in_channels=channels,
        stacked_convs=2,
        feat_channels=channels,
        norm_cfg=dict(type='GN', num_groups=16),
        anchor_generator=dict(octave_base_scale=2.5, strides=[8, 16, 32])))

# 6 passes over 800 pictures.
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
