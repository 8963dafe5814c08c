# For detection and segmentation; ImageNet training drops more paths. Blocks are
# recomputed as in the authors' detectors, which changes no number.
backbone = dict(
    type='mmhier.LITv2',
    arch='base',
    window_size=4,
    drop_path_rate=0.3,
    with_cp=True,
    init_cfg=dict(type='Pretrained', checkpoint='litv2-base_in1k'))
in_channels = [128, 256, 512, 1024]
