backbone = dict(
    type='mmhier.LIT',
    arch='small',
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='lit-small_in1k'))
in_channels = [96, 192, 384, 768]
