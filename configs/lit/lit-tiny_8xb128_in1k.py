# The authors' recipe: DeiT's with repeated augmentation. The offsets of the
# deformable merging learn at lr x 0.01 (their bias at lr); position
# embeddings decay, the class token does not.
_base_ = ['../_base_/in1k_224.py', '../_base_/backbones/lit-tiny.py']

model = dict(
    backbone=dict(_base_.backbone, out_type='cls_token', init_cfg=None),
    head=dict(type='LinearClsHead', in_channels=_base_.in_channels[-1]))

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        'cls_token': dict(decay_mult=0.),
        'conv_offset.weight': dict(lr_mult=0.01)
    }))
