# COCO 2017 as in coco_detection.py, with DETR's augmentation: every other image
# is cropped, and the short side becomes 480 to 800 pixels. Images without
# objects are trained on, too.
_base_ = './coco_detection.py'

resize = dict(
    type='RandomChoiceResize',
    scales=[(1333, short_side) for short_side in range(480, 801, 32)],
    keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(4200, 400), (4200, 500), (4200, 600)],
                    keep_ratio=True),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True),
                resize,
            ],
        ]),
    dict(type='PackDetInputs')
]

train_dataloader = dict(
    dataset=dict(
        filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline))
