# COCO 2017 as in coco_instance.py, trained on several scales: the short side
# 480 to 800 pixels in steps of 32, the long side at most 1333.
_base_ = './coco_instance.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoiceResize',
    scales=[(1333, short_side) for short_side in range(480, 801, 32)],
    keep_ratio=True)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
