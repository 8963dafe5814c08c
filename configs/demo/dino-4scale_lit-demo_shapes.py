# A slim DINO with a LIT of a million parameters on the generated shapes
# (tools/dataset_tools/generate_shapes.py), from random weights, in minutes on
# a CPU core. It reaches a mAP of 0.08, and 0 if the maps are all zeros.
_base_ = [
    '../_base_/models/dino-4scale.py', './_base_/detection_shapes.py',
    './_base_/schedule.py', '../_base_/default_runtime.py'
]

lowest_metrics = {'coco/bbox_mAP': 0.03}

channels = 64
ffn_cfg = dict(embed_dims=channels, feedforward_channels=128)
model = dict(
    num_queries=30,
    backbone=dict(
        type='mmhier.LIT',
        arch=dict(
            embed_dims=(32, 64, 128, 160),
            depths=(1, 1, 2, 1),
            num_heads=(4, 5),
            mlp_ratios=(4, 4, 4, 4),
            position='relative',
            norm_eps=1e-6),
        # Maps of 8 and 4 tokens a side.
        bias_size=8),
    neck=dict(
        in_channels=[64, 128, 160],
        out_channels=channels,
        norm_cfg=dict(num_groups=16)),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=channels), ffn_cfg=ffn_cfg)),
    decoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=channels),
            cross_attn_cfg=dict(embed_dims=channels),
            ffn_cfg=ffn_cfg)),
    positional_encoding=dict(num_feats=channels // 2),
    bbox_head=dict(num_classes=len(_base_.classes), embed_dims=channels),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=30)),
    test_cfg=dict(max_per_img=30))

# Images are made smaller for speed, predictions fit the originals.
size = (128, 128)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = size

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# 3 passes over 800 pictures.
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_iters

optim_wrapper = dict(clip_grad=dict(max_norm=1.0))

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
