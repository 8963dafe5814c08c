_base_ = './mask-rcnn_hatnet-tiny_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 320, 640]))
