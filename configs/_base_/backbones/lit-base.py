backbone = dict(
    type='mmhier.LIT',
    arch='base',
    drop_path_rate=0.5,
    init_cfg=dict(type='Pretrained', checkpoint='lit-base_in1k'))
in_channels = [128, 256, 512, 1024]
