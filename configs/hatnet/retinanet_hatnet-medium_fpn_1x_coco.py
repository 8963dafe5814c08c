_base_ = './retinanet_hatnet-tiny_fpn_1x_coco.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
