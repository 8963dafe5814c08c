backbone = dict(type='mmhier.HVT', arch='s-0', drop_path_rate=0.1)
in_channels = [384, 384, 384, 384]
