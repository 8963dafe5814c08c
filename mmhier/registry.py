"""mmhier's nodes of OpenMMLab's registries.

Importing this module is all that `type='mmhier.X'` needs: mmengine does it
by itself when it meets the scope, and imports `locations` on first use.
"""
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmhier',
    locations=['mmhier.models'])
