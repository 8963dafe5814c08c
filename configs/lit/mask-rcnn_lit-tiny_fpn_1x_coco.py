# The authors' recipe: float32, weight decay on every parameter.
# lr 2e-4 for the batch of 16.
_base_ = '../_base_/mask-rcnn_fpn_1x_coco.py'

model = dict(backbone=dict(type='mmhier.LIT', arch='tiny', drop_path_rate=0.1))

optim_wrapper = dict(optimizer=dict(lr=2e-4))
