# PVT's recipe, which the authors state they use: DeiT's with repeated
# augmentation, no EMA. timm leaves colour jitter (0.4) out beside RandAugment.
_base_ = '../../_base_/in1k_224.py'

model = dict(
    backbone=dict(out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='mmhier.DropoutClsHead'))

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
