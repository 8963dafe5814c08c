# LIT published no 3x schedule: this is Swin's, the field's standard, without
# its cropping branch. Bias tables and recomputed blocks as in its 1x.
_base_ = '../../_base_/cascade-mask-rcnn_fpn_ms-3x_coco.py'

model = dict(backbone=dict(bias_size=50, with_cp=True))
