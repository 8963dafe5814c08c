backbone = dict(type='mmhier.LIT', arch='medium', drop_path_rate=0.3)
in_channels = [96, 192, 384, 768]
