"""mmseg's segmentor with the channels of its parts filled in."""
from mmseg.models import segmentors
from mmhier.registry import MODELS
from .wiring import WiredModel, wire_segmentor

__all__ = ['EncoderDecoder']


@MODELS.register_module()
class EncoderDecoder(WiredModel, segmentors.EncoderDecoder):
    """mmseg's EncoderDecoder, wired by :func:`wire_segmentor`.

    Args:
        num_classes (int, optional): Of both heads. Defaults to None, as the
            heads state.
        **kwargs: Arguments of mmseg's class, by keyword.
    """
    wire = staticmethod(wire_segmentor)
