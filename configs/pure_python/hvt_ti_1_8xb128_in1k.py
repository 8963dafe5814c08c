# hvt-ti-1_8xb128_in1k.py as a pure-Python config: bases are imported, and
# types are classes.
from mmengine.config import read_base
from mmpretrain.datasets import ImageNet
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier, LinearClsHead
from mmpretrain.visualization import UniversalVisualizer
from mmhier.models import HVT

with read_base():
    from .._base_.datasets.imagenet_224 import *
    from .._base_.default_runtime import *
    from .._base_.models.classifier import *
    from .._base_.schedules.imagenet_300e import *

default_scope = 'mmpretrain'
default_hooks.logger.interval = 100
default_hooks.visualization.type = VisualizationHook
env_cfg.cudnn_benchmark = True
visualizer.type = UniversalVisualizer

model.update(
    type=ImageClassifier,
    backbone=dict(
        type=HVT,
        arch='ti-1',
        drop_path_rate=0.1,
        init_cfg=None,
        out_type='avg_featmap'))
model.head.update(type=LinearClsHead, in_channels=192)

train_dataloader.sampler.type = 'RepeatAugSampler'
train_dataloader.dataset.type = ImageNet
val_dataloader.dataset.type = ImageNet
test_dataloader = val_dataloader
val_evaluator.type = Accuracy
test_evaluator = val_evaluator

optim_wrapper.optimizer.weight_decay = 0.025
optim_wrapper.paramwise_cfg.custom_keys = dict(pos_embed=dict(decay_mult=0.))
