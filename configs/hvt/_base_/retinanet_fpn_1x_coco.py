# HVT published no dense prediction: this is Swin's and XCiT's AdamW, the
# field's standard for transformers, with the authors' drop path rate. The
# stride-4 map, which RetinaNet does not read, is not built.
_base_ = '../../_base_/retinanet_fpn_1x_coco.py'

model = dict(
    backbone=dict(out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')),
    neck=dict(start_level=0))

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0., custom_keys={'pos_embed': dict(decay_mult=0.)}))
