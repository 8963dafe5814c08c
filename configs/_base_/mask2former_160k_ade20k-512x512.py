# Mask2Former, 160k iterations, ADE20K: mmseg's recipe for Swin.
_base_ = [
    './models/mask2former_semantic.py', './datasets/ade20k_512x512_ms.py',
    './schedules/mask2former_160k.py', './seg_runtime.py'
]

model = dict(data_preprocessor=dict(size=_base_.crop_size))

default_hooks = dict(checkpoint=dict(interval=5000))
