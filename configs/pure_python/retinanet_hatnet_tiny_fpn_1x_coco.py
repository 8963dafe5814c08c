# retinanet_hatnet-tiny_fpn_1x_coco.py as a pure-Python config: bases are
# imported, and types are classes.
from mmdet.models import RetinaNet
from mmengine.config import read_base
from mmhier.models import HATNet

with read_base():
    from .._base_.datasets.coco_detection import *
    from .._base_.default_runtime import *
    from .._base_.models.retinanet_fpn import *
    from .._base_.schedules.schedule_1x import *

model.update(
    type=RetinaNet,
    backbone=dict(
        type=HATNet,
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='hatnet-tiny_in1k')))
model.neck.update(in_channels=[48, 96, 240, 384])
