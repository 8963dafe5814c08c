"""mmpretrain's classifier with the channels of its parts filled in."""
from mmpretrain.models import classifiers
from mmhier.registry import MODELS
from .wiring import WiredModel, wire_classifier

__all__ = ['ImageClassifier']


@MODELS.register_module()
class ImageClassifier(WiredModel, classifiers.ImageClassifier):
    """mmpretrain's ImageClassifier, wired by :func:`wire_classifier`.

    Args:
        num_classes (int, optional): Of the head and the data preprocessor.
            Defaults to None, as they state.
        **kwargs: Arguments of mmpretrain's class, by keyword.
    """
    wire = staticmethod(wire_classifier)
