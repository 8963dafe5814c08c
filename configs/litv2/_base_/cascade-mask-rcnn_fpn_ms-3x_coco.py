# LITv2 published no 3x schedule: this is Swin's, the field's standard, without
# its cropping branch.
_base_ = '../../_base_/cascade-mask-rcnn_fpn_ms-3x_coco.py'
