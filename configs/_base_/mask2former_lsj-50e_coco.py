# Mask2Former, 50 epochs of large-scale jittering, COCO: mmdet's recipe for
# Swin.
_base_ = [
    './models/mask2former_instance.py', './datasets/coco_instance_lsj.py',
    './schedules/mask2former_50e.py', './default_runtime.py'
]

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=3))
log_processor = dict(by_epoch=False)
