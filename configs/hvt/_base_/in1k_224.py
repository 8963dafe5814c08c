# The authors' recipe: DeiT's with weight decay 0.025, none on the position
# embeddings, and repeated augmentation; no EMA, no clipping.
_base_ = '../../_base_/in1k_224.py'

model = dict(
    backbone=dict(out_type='avg_featmap'), head=dict(type='LinearClsHead'))

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.025),
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.)}))
