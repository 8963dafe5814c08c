# ACC-ViT's segmentation settings are unknown: this is Swin's recipe, the
# field's standard.
# The drop path rate of tiny is MaxViT-T's; the other variants' are this
# project's choice, smaller models less, larger ones more.
_base_ = '../_base_/upernet_160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        type='mmhier.ACCViT',
        arch='tiny',
        drop_path_rate=0.2,
        norm_cfg=dict(type='SyncBN')))
