# UperNet, 160k iterations, ADE20K.
_base_ = [
    './models/upernet.py', './datasets/ade20k_512x512.py',
    './schedules/schedule_160k.py', './seg_runtime.py'
]

model = dict(data_preprocessor=dict(size=_base_.crop_size))
