backbone = dict(
    type='mmhier.HVT',
    arch='ti-1',
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint='hvt-ti-1_in1k'))
in_channels = [192, 192, 192, 192]
