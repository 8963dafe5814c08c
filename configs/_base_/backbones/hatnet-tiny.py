backbone = dict(
    type='mmhier.HATNet',
    arch='tiny',
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint='hatnet-tiny_in1k'))
in_channels = [48, 96, 240, 384]
