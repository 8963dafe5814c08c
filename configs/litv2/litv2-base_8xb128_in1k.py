_base_ = './_base_/in1k_224.py'

model = dict(
    backbone=dict(type='mmhier.LITv2', arch='base', drop_path_rate=0.5),
    head=dict(in_channels=1024))
