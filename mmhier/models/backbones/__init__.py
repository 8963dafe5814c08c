from .accvit import ACCViT
from .hatnet import HATNet
from .hvt import HVT
from .lit import LIT
from .litv2 import LITv2

__all__ = ['ACCViT', 'HATNet', 'HVT', 'LIT', 'LITv2']
