"""mmhier's nodes of OpenMMLab's registries.

Importing this module is all that `type='mmhier.X'` needs: mmengine does it
by itself when it meets the scope, and imports `locations` on first use.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmhier',
    locations=['mmhier.models'])
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='mmhier',
    locations=['mmhier.datasets.coco_subset'])
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='mmhier',
    locations=['mmhier.evaluation.metrics'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='mmhier',
    locations=['mmhier.engine.amp'])
STRATEGIES = Registry(
    'strategy',
    parent=MMENGINE_STRATEGIES,
    scope='mmhier',
    locations=['mmhier.engine.fsdp'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmhier',
    locations=['mmhier.engine.optim'])
