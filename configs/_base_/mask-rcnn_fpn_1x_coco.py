# Mask R-CNN, 1x schedule, COCO.
_base_ = [
    './models/mask-rcnn_fpn.py', './datasets/coco_instance.py',
    './schedules/schedule_1x.py', './default_runtime.py'
]
