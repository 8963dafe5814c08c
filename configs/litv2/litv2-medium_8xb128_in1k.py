_base_ = './_base_/in1k_224.py'

model = dict(
    backbone=dict(type='mmhier.LITv2', arch='medium', drop_path_rate=0.3),
    head=dict(in_channels=768))
