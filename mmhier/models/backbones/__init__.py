from .accvit import ACCViT
from .hatnet import HATNet
from .hvt import HVT
from .lit import LIT

__all__ = ['ACCViT', 'HATNet', 'HVT', 'LIT']
