from .accvit import ACCViT
from .hatnet import HATNet

__all__ = ['ACCViT', 'HATNet']
