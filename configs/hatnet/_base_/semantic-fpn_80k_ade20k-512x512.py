# HAT-Net published no segmentation configs: these follow P2T (the same group),
# whose test images are stretched to multiples of 32 pixels.
_base_ = '../../_base_/semantic-fpn_80k_ade20k-512x512.py'

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(
    1, [dict(type='ResizeToMultiple', size_divisor=32)])
