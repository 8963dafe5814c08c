_base_ = './cascade-mask-rcnn_hatnet-small_fpn_ms-3x_coco.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
