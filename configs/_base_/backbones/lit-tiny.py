backbone = dict(
    type='mmhier.LIT',
    arch='tiny',
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint='lit-tiny_in1k'))
in_channels = [64, 128, 320, 512]
