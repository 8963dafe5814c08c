"""mmhier's nodes of OpenMMLab's registries.

Importing this module is all that `type='mmhier.X'` needs: mmengine does it
by itself when it meets the scope, and imports `locations` on first use.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_INITIALIZERS
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
RUNNERS = Registry(
    'runner',
    parent=MMENGINE_RUNNERS,
    scope='mmhier',
    locations=['mmhier.engine.runner'])
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='mmhier',
    locations=[
        'mmhier.engine.checkpoints', 'mmhier.engine.hooks',
        'mmhier.engine.seeding', 'mmhier.leaderboard.recording'
    ])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_INITIALIZERS,
    scope='mmhier',
    locations=['mmhier.checkpoints.initializer'])
