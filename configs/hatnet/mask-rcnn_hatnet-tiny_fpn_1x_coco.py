# HAT-Net published no detection configs: these follow PVT and P2T (the same
# group), whose training code the authors name. No gradient clipping.
#
# To start from converted ImageNet weights:
#   --cfg-options model.backbone.init_cfg.type=Pretrained \
#       model.backbone.init_cfg.checkpoint=PATH
_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py'
]

model = dict(
    backbone=dict(type='mmhier.HATNet', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[48, 96, 240, 384]))
