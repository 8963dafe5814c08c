# The authors' recipe: lr 2e-4 for the batch of 16, no weight decay on norms.
# They trained in mixed precision: --amp.
_base_ = '../../_base_/mask-rcnn_fpn_1x_coco.py'

optim_wrapper = dict(
    optimizer=dict(lr=2e-4), paramwise_cfg=dict(norm_decay_mult=0.))
