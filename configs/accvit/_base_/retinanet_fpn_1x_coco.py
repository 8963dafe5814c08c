# ACC-ViT's detection settings are unknown: this is Swin's AdamW, the field's
# standard.
_base_ = '../../_base_/retinanet_fpn_1x_coco.py'

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))
