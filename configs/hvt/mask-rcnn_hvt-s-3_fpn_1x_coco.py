_base_ = './mask-rcnn_hvt-s-1_fpn_1x_coco.py'

model = dict(backbone=dict(arch='s-3'))
