_base_ = './_base_/in1k_224.py'

model = dict(
    backbone=dict(type='mmhier.LITv2', arch='small', drop_path_rate=0.2),
    head=dict(in_channels=768))
