_base_ = './hvt-s-1_8xb128_in1k.py'

model = dict(backbone=dict(arch='ti-1'))
