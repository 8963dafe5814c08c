_base_ = './mask-rcnn_accvit-tiny_fpn_1x_coco.py'

model = dict(backbone=dict(arch='pico', drop_path_rate=0.1))
