backbone = dict(
    type='mmhier.HATNet',
    arch='medium',
    drop_path_rate=0.3,
    init_cfg=dict(type='Pretrained', checkpoint='hatnet-medium_in1k'))
in_channels = [64, 128, 320, 512]
