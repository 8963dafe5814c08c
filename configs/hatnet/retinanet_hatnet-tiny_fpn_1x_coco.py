# HAT-Net published no detection configs: these follow PVT and P2T (the same
# group), whose training code the authors name. No gradient clipping.
_base_ = '../_base_/retinanet_fpn_1x_coco.py'

model = dict(
    backbone=dict(type='mmhier.HATNet', arch='tiny', drop_path_rate=0.1))
