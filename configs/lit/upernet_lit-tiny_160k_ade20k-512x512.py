# LIT published no UperNet: this is Swin's recipe, the field's standard, with
# the authors' drop path rate.
_base_ = '../_base_/upernet_160k_ade20k-512x512.py'

model = dict(backbone=dict(type='mmhier.LIT', arch='tiny', drop_path_rate=0.1))
