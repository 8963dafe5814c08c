backbone = dict(type='mmhier.HVT', arch='ti-1', drop_path_rate=0.1)
in_channels = [192, 192, 192, 192]
