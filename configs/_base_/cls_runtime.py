# default_runtime.py for classifiers.
_base_ = './default_runtime.py'

default_scope = 'mmpretrain'

default_hooks = dict(
    logger=dict(interval=100), visualization=dict(type='VisualizationHook'))

env_cfg = dict(cudnn_benchmark=True)
visualizer = dict(type='UniversalVisualizer')
