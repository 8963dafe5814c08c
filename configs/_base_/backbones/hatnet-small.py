backbone = dict(type='mmhier.HATNet', arch='small', drop_path_rate=0.1)
in_channels = [64, 128, 320, 512]
