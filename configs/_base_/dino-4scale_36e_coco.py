# DINO, 36 epochs, COCO: mmdet's recipe.
_base_ = [
    './models/dino-4scale.py', './datasets/coco_detection_crop.py',
    './schedules/dino_36e.py', './default_runtime.py'
]
