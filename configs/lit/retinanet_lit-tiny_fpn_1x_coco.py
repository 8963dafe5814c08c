# The authors' recipe: float32, weight decay on every parameter.
_base_ = '../_base_/retinanet_fpn_1x_coco.py'

model = dict(backbone=dict(type='mmhier.LIT', arch='tiny', drop_path_rate=0.1))
