# The authors' recipe for small, medium and base: bias tables for maps of 50x50
# and 25x25 (800 pixels), no weight decay on norms and bias tables, recomputed
# blocks. They trained in mixed precision: --amp.
_base_ = '../../_base_/retinanet_fpn_1x_coco.py'

model = dict(backbone=dict(bias_size=50, with_cp=True))

optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))
