# The authors' recipe: weight decay on every parameter. They trained in mixed
# precision: --amp.
_base_ = '../../_base_/retinanet_fpn_1x_coco.py'
