# The drop path rate of tiny is MaxViT-T's; the other variants' are this
# project's choice, smaller models less, larger ones more. BatchNorm's
# statistics are those of the whole batch.
backbone = dict(
    type='mmhier.ACCViT',
    arch='small',
    drop_path_rate=0.3,
    norm_cfg=dict(type='SyncBN'))
in_channels = [96, 192, 384, 768]
