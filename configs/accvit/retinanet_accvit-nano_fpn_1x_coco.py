_base_ = './retinanet_accvit-tiny_fpn_1x_coco.py'

model = dict(backbone=dict(arch='nano', drop_path_rate=0.1))
