backbone = dict(type='mmhier.HATNet', arch='tiny', drop_path_rate=0.1)
in_channels = [48, 96, 240, 384]
