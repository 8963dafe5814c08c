# ACC-ViT published no 3x schedule: this is Swin's, the field's standard,
# without its cropping branch.
# The drop path rate of tiny is MaxViT-T's; the other variants' are this
# project's choice, smaller models less, larger ones more.
_base_ = '../_base_/mask-rcnn_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        type='mmhier.ACCViT',
        arch='tiny',
        drop_path_rate=0.2,
        norm_cfg=dict(type='SyncBN')))
