_base_ = './mask-rcnn_hatnet-tiny_fpn_1x_coco.py'

model = dict(backbone=dict(arch='small'))
