backbone = dict(
    type='mmhier.LIT',
    arch='medium',
    drop_path_rate=0.3,
    init_cfg=dict(type='Pretrained', checkpoint='lit-medium_in1k'))
in_channels = [96, 192, 384, 768]
