_base_ = './upernet_accvit-tiny_160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
