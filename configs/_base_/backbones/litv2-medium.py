# For detection and segmentation; ImageNet training drops more paths.
backbone = dict(
    type='mmhier.LITv2',
    arch='medium',
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='litv2-medium_in1k'))
in_channels = [96, 192, 384, 768]
