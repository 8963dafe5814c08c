"""What ``mmcv/_ext.py`` is where it hands over to mmhier.

mmengine 0.10.7 cannot read its own checkpoints with torch >= 2.6 unless their
types are allowed.
"""
import torch
from ..checkpoints.reading import SAFE_TYPES
from .finder import get_operator as __getattr__  # noqa: F401

torch.serialization.add_safe_globals(SAFE_TYPES)
