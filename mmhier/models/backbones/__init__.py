from .accvit import ACCViT
from .hatnet import HATNet
from .lit import LIT

__all__ = ['ACCViT', 'HATNet', 'LIT']
