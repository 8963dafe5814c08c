# Mask R-CNN, multi-scale 3x schedule, COCO.
_base_ = [
    './models/mask-rcnn_fpn.py', './datasets/coco_instance_ms.py',
    './schedules/schedule_3x.py', './default_runtime.py'
]
