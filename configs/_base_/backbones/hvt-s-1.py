backbone = dict(
    type='mmhier.HVT',
    arch='s-1',
    drop_path_rate=0.1,
    init_cfg=dict(type='Pretrained', checkpoint='hvt-s-1_in1k'))
in_channels = [384, 384, 384, 384]
