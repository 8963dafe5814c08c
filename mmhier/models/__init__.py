"""Backbones, and the models, heads and wrappers that need other packages.

The latter are imported by name: ``type='mmhier.X'`` or their own module.
"""
from mmhier import registry  # noqa: F401  # says how to install OpenMMLab
from .backbones import *  # noqa: F403
