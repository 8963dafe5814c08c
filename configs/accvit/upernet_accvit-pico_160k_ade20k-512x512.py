_base_ = './upernet_accvit-tiny_160k_ade20k-512x512.py'

model = dict(backbone=dict(arch='pico', drop_path_rate=0.1))
