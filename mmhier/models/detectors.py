"""mmdet's detectors with the channels of their parts filled in."""
from mmdet.models import detectors
from mmhier.registry import MODELS
from .wiring import WiredModel, wire_detector

__all__ = ['CascadeRCNN', 'MaskRCNN', 'RetinaNet']


@MODELS.register_module()
class RetinaNet(WiredModel, detectors.RetinaNet):
    """mmdet's RetinaNet, wired by :func:`wire_detector`.

    Args:
        num_classes (int, optional): Of every head. Defaults to None, as the
            heads state.
        **kwargs: Arguments of mmdet's class, by keyword.
    """
    wire = staticmethod(wire_detector)


@MODELS.register_module()
class MaskRCNN(WiredModel, detectors.MaskRCNN):
    """mmdet's Mask R-CNN, wired by :func:`wire_detector`.

    Args:
        num_classes (int, optional): Of every head. Defaults to None, as the
            heads state.
        **kwargs: Arguments of mmdet's class, by keyword.
    """
    wire = staticmethod(wire_detector)


@MODELS.register_module()
class CascadeRCNN(WiredModel, detectors.CascadeRCNN):
    """mmdet's Cascade (Mask) R-CNN, wired by :func:`wire_detector`.

    Args:
        num_classes (int, optional): Of every head. Defaults to None, as the
            heads state.
        **kwargs: Arguments of mmdet's class, by keyword.
    """
    wire = staticmethod(wire_detector)
