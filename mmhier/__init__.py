"""Hierarchical-attention vision transformers as OpenMMLab backbones.

Importing it loads neither torch nor OpenMMLab: it makes mmcv's operators
available on torchvision (see :mod:`mmhier.ops`); registries load on use.
"""
from . import ops
from .version import __version__

ops.register()

__all__ = ['__version__']
