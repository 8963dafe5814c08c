# ACC-ViT's detection settings are unknown: this is Swin's AdamW, the field's
# standard. BatchNorm's statistics are those of all 16 images.
# The drop path rate of tiny is MaxViT-T's; the other variants' are this
# project's choice, smaller models less, larger ones more.
_base_ = '../_base_/mask-rcnn_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        type='mmhier.ACCViT',
        arch='tiny',
        drop_path_rate=0.2,
        norm_cfg=dict(type='SyncBN')))

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))
