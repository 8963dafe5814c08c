_base_ = './upernet_hatnet-tiny_160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small'))
