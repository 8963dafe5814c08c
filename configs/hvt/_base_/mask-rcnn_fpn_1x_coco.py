# HVT published no dense prediction: this is Swin's and XCiT's AdamW, the
# field's standard for transformers, with the authors' drop path rate.
_base_ = '../../_base_/mask-rcnn_fpn_1x_coco.py'

model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0., custom_keys={'pos_embed': dict(decay_mult=0.)}))
