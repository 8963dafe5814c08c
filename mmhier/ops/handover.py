"""What ``mmcv/_ext.py`` is where it hands over to mmhier.

mmengine 0.10.7 cannot read its own checkpoints with torch >= 2.6 unless their
types are allowed, as the second import does.
"""
from ..checkpoints import reading  # noqa: F401
from .finder import get_operator as __getattr__  # noqa: F401
