# LIT published no DINO: bias tables and recomputed blocks as in its 1x.
_base_ = '../../_base_/dino-4scale_12e_coco.py'

model = dict(backbone=dict(bias_size=50, with_cp=True))
