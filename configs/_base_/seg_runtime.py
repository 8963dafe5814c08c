# default_runtime.py for segmentors, which count iterations.
_base_ = './default_runtime.py'

default_scope = 'mmseg'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=8000),
    visualization=dict(type='SegVisualizationHook'))

env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type='SegLocalVisualizer')
log_processor = dict(by_epoch=False)
