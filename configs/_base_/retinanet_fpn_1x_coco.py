# RetinaNet, 1x schedule, COCO.
_base_ = [
    './models/retinanet_fpn.py', './datasets/coco_detection.py',
    './schedules/schedule_1x.py', './default_runtime.py'
]
