# 36 epochs as mmdet's DINO with Swin: the learning rate divided by 10 after
# epochs 27 and 33.
_base_ = './dino_12e.py'

train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=36,
        by_epoch=True,
        milestones=[27, 33],
        gamma=0.1)
]
