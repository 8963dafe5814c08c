"""Hierarchical-attention vision transformers as OpenMMLab backbones."""
from importlib.util import find_spec

from .version import __version__

for package in ('mmengine', 'mmcv'):
    if find_spec(package) is None:
        raise ImportError(
            f'mmhier needs OpenMMLab, and {package} is not installed: run '
            '`pip install "mmhier[openmmlab]"` (or `pip install -e '
            '".[openmmlab]"` in a checkout of mmhier)')

from . import ops  # noqa: E402

ops.register()

__all__ = ['__version__']
