backbone = dict(type='mmhier.LITv2', arch='small', drop_path_rate=0.2)
in_channels = [96, 192, 384, 768]
