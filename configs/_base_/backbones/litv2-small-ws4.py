backbone = dict(
    type='mmhier.LITv2',
    arch='small',
    window_size=4,
    drop_path_rate=0.2,
    init_cfg=dict(type='Pretrained', checkpoint='litv2-small_in1k'))
in_channels = [96, 192, 384, 768]
