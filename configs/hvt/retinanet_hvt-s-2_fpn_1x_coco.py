_base_ = './retinanet_hvt-s-1_fpn_1x_coco.py'

model = dict(backbone=dict(arch='s-2'))
