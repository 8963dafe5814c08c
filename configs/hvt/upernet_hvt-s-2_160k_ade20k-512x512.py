_base_ = './upernet_hvt-s-1_160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='s-2'))
