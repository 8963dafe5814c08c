backbone = dict(
    type='mmhier.HATNet',
    arch='small',
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint='hatnet-small_in1k'))
in_channels = [64, 128, 320, 512]
