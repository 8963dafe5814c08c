backbone = dict(type='mmhier.HATNet', arch='medium', drop_path_rate=0.3)
in_channels = [64, 128, 320, 512]
