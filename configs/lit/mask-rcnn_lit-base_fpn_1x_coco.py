_base_ = './mask-rcnn_lit-small_fpn_1x_coco.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5))
