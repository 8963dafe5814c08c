# Semantic FPN, 80k iterations, ADE20K.
_base_ = [
    './models/semantic-fpn.py', './datasets/ade20k_512x512.py',
    './schedules/schedule_80k.py', './seg_runtime.py'
]

model = dict(data_preprocessor=dict(size=_base_.crop_size))
