backbone = dict(type='mmhier.LIT', arch='base', drop_path_rate=0.5)
in_channels = [128, 256, 512, 1024]
