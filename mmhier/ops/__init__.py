"""mmcv's operators for detection, from torchvision where mmcv has none.

Nothing here imports torch or mmcv before an operator is asked for.
"""
from .finder import get_operator, register
from .shim import install_shim, remove_shim
from .source import describe_operators, operator_source

__all__ = [
    'describe_operators', 'get_operator', 'install_shim', 'operator_source',
    'register', 'remove_shim'
]
