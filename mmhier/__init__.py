"""Hierarchical-attention vision transformers as OpenMMLab backbones."""
from importlib.util import find_spec

from .version import __version__

if find_spec('mmengine') is None:
    raise ImportError(
        'mmhier needs OpenMMLab, and mmengine is not installed: run '
        '`pip install "mmhier[openmmlab]"` (or `pip install -e '
        '".[openmmlab]"` in a checkout of mmhier)')

from . import ops  # noqa: E402

ops.register()

__all__ = ['__version__']
