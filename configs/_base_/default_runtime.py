default_scope = 'mmdet'

# Resumes exactly, reads checkpoints safely and names what cannot be used.
runner_type = 'mmhier.Runner'
custom_hooks = [
    dict(type='mmhier.CheckpointFitHook'),
    dict(type='mmhier.FiniteLossHook'),
    dict(type='mmhier.ExactResumeHook'),
    dict(type='mmhier.TrainingRecordHook')
]

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmhier.CheckpointHook', interval=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'))

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
