# ADE20K as in ade20k_512x512.py, trained on several scales: the short side 256
# to 1024 pixels in steps of a tenth of 512, the long side at most 2048.
_base_ = './ade20k_512x512.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoiceResize',
    scales=[int(512 * tenths * 0.1) for tenths in range(5, 21)],
    resize_type='ResizeShortestEdge',
    max_size=2048)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
