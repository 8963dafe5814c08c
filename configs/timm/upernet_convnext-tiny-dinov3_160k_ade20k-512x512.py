# ConvNeXt tiny with the weights of DINOv3, of timm, under the UperNet of the
# others, as in mask-rcnn_convnext-tiny_fpn_1x_coco.py.
_base_ = '../_base_/upernet_160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        type='mmhier.TimmBackbone',
        arch='convnext_tiny',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://convnext_tiny.dinov3_lvd1689m')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
