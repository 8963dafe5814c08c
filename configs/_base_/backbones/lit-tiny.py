backbone = dict(type='mmhier.LIT', arch='tiny', drop_path_rate=0.1)
in_channels = [64, 128, 320, 512]
