_base_ = './upernet_hatnet-tiny_160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
