"""Official weights -> mmhier's names, as state dicts and as files."""
from typing import Any

from torch import Tensor, nn


def convert_model_state_dict(state_dict: dict[str, Tensor],
                             backbone_cls: Any) -> dict[str, Tensor] | None:
    """Rename the state dict of a released classifier, detector or segmentor.

    The part under 'backbone.' goes through the family's
    ``convert_official``; necks and heads keep their names, which mmdet
    2.x -> 3.x and mmseg 0.x -> 1.x did not change for FPN, RetinaHead,
    RPNHead, Shared2FCBBoxHead, FCNMaskHead and FPNHead.

    Args:
        state_dict (dict): Names of the authors' model, unwrapped.
        backbone_cls (type): Class of the backbone, for example
            ``mmhier.models.backbones.LIT``.

    Returns:
        dict | None: The same weights, named as in a model of mmpretrain,
        mmdet 3.x or mmseg 1.x with that backbone; None if the backbone's
        names are not this family's.
    """
    prefix = 'backbone.'
    inside = {
        name[len(prefix):]: value
        for name, value in state_dict.items() if name.startswith(prefix)
    }
    converted = backbone_cls.convert_official(inside or state_dict)
    if converted is None or not inside:
        return converted
    rest = {
        name: value
        for name, value in state_dict.items() if not name.startswith(prefix)
    }
    return {**converted, **rest}


def convert_for_model(model: nn.Module,
                      state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename official weights of a whole model for that model.

    Args:
        model (nn.Module): Classifier, detector or segmentor.
        state_dict (dict): Weights, unwrapped.

    Returns:
        dict: Renamed weights; `state_dict` itself if there is nothing to
        rename, or the backbone is not one of mmhier.
    """
    backbone = type(getattr(model, 'backbone', None))
    if not hasattr(backbone, 'convert_official'):
        return state_dict
    converted = convert_model_state_dict(state_dict, backbone)
    if converted is None or converted.keys() == state_dict.keys():
        return state_dict
    return converted
