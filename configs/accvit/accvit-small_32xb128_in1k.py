_base_ = ['./_base_/in1k_224.py', '../_base_/backbones/accvit-small.py']

model = dict(
    backbone=_base_.backbone, head=dict(in_channels=_base_.in_channels[-1]))
