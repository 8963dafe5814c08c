# The authors' recipe: DeiT's with repeated augmentation. The offsets of the
# deformable merging learn at lr x 0.01 (their bias at lr); position
# embeddings decay, the class token does not.
_base_ = '../_base_/in1k_224.py'

model = dict(
    backbone=dict(
        type='mmhier.LIT',
        arch='tiny',
        drop_path_rate=0.1,
        out_type='cls_token'),
    head=dict(type='LinearClsHead'))

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        'cls_token': dict(decay_mult=0.),
        'conv_offset.weight': dict(lr_mult=0.01)
    }))
