"""Channels and classes of a model's parts, taken from where they are stated.

A backbone declares its ``out_channels``; necks and heads take their
``in_channels`` from it, or from the neck before them, and every head takes
its ``num_classes`` from the one of the model. What a config states all the
same is kept and has to agree.
"""
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from mmhier.errors import MMHierError
from mmhier.registry import MODELS

Maps = list[int] | tuple[int, ...]


def declared_channels(backbone: dict) -> tuple[int, ...]:
    """``out_channels`` of a backbone, built without memory for its weights.

    Args:
        backbone (dict): Config of the backbone.

    Raises:
        ValueError: If the backbone declares no ``out_channels``.
    """
    backbone = {k: v for k, v in backbone.items() if k != 'init_cfg'}
    with torch.device('meta'):
        module = MODELS.build(backbone)
    channels = getattr(module, 'out_channels', None)
    if not isinstance(channels, Sequence):
        raise MMHierError(
            f"backbone {backbone['type']} declares no out_channels: take the "
            'model without the prefix "mmhier." and state in_channels of its '
            'neck or head')
    return tuple(channels)


def wire_detector(model: dict, num_classes: int | None = None) -> dict:
    """Complete the parts of an mmdet detector with a neck.

    Filled in: ``neck.in_channels``; ``in_channels`` of every head and
    ``out_channels`` of the RoI extractors from ``neck.out_channels``;
    ``num_classes`` of every head but the RPN's.

    Args:
        model (dict): ``backbone``, ``neck`` and heads as mmdet takes them.
        num_classes (int, optional): Defaults to None, as the heads state.

    Returns:
        dict: A completed copy.

    Raises:
        ValueError: If a given value disagrees.
    """
    model = deepcopy(model)
    width = _wire_neck(model)
    roi_head = model.get('roi_head') or {}
    heads = [('bbox_head', head) for head in _as_list(model.get('bbox_head'))]
    heads += [(f'roi_head.{key}', head) for key in ('bbox_head', 'mask_head')
              for head in _as_list(roi_head.get(key))]
    for name, head in heads:
        _fill(head, 'in_channels', width, name, 'neck.out_channels')
        _fill(head, 'num_classes', num_classes, name, 'model.num_classes')
    for head in _as_list(model.get('rpn_head')):
        _fill(head, 'in_channels', width, 'rpn_head', 'neck.out_channels')
    for key in ('bbox_roi_extractor', 'mask_roi_extractor'):
        for extractor in _as_list(roi_head.get(key)):
            _fill(extractor, 'out_channels', width, f'roi_head.{key}',
                  'neck.out_channels')
    return model


def wire_segmentor(model: dict, num_classes: int | None = None) -> dict:
    """Complete the parts of an mmseg segmentor, with or without a neck.

    Filled in: ``neck.in_channels``; ``in_channels`` of the decode and
    auxiliary heads, for the maps that their ``in_index`` names (mmseg's
    default, -1, is the last one); ``num_classes`` of both.

    Args:
        model (dict): ``backbone``, ``neck`` and heads as mmseg takes them.
        num_classes (int, optional): Defaults to None, as the heads state.

    Returns:
        dict: A completed copy.

    Raises:
        ValueError: If a given value disagrees.
    """
    model = deepcopy(model)
    maps: Maps | None = None
    if model.get('neck') is None:
        source = f"out_channels of {model['backbone']['type']}"
        maps = declared_channels(model['backbone'])
    else:
        source = 'neck.out_channels'
        width = _wire_neck(model)
        num_outs = _as_list(model['neck'])[-1].get('num_outs')
        if width is not None and num_outs is not None:
            maps = [width] * num_outs
    for name in ('decode_head', 'auxiliary_head'):
        for head in _as_list(model.get(name)):
            channels = None
            if maps is not None:
                channels = _select(maps, head.get('in_index', -1), name)
            _fill(head, 'in_channels', channels, name, source)
            _fill(head, 'num_classes', num_classes, name, 'model.num_classes')
    return model


def wire_classifier(model: dict, num_classes: int | None = None) -> dict:
    """Complete the parts of an mmpretrain classifier.

    Filled in: ``head.in_channels`` from the last map, which a pooling neck
    does not change; ``num_classes`` of the head and of the data
    preprocessor, whose batch augmentations need it.

    Args:
        model (dict): ``backbone``, ``neck`` and ``head`` as mmpretrain takes
            them.
        num_classes (int, optional): Defaults to None, as the head states.

    Returns:
        dict: A completed copy.

    Raises:
        ValueError: If a given value disagrees.
    """
    model = deepcopy(model)
    channels = declared_channels(model['backbone'])[-1]
    for head in _as_list(model.get('head')):
        _fill(head, 'in_channels', channels, 'head',
              f"out_channels of {model['backbone']['type']}")
        _fill(head, 'num_classes', num_classes, 'head', 'model.num_classes')
    if num_classes is not None:
        preprocessor = model.get('data_preprocessor')
        if preprocessor is None:
            preprocessor = model['data_preprocessor'] = {}
        if isinstance(preprocessor, dict):
            _fill(preprocessor, 'num_classes', num_classes, 'data_preprocessor',
                  'model.num_classes')
    return model


class WiredModel:
    """Mixin of the models below: wires their parts, serves layer decay."""

    wire: Any
    backbone: Any

    def __init__(self, num_classes: int | None = None, **kwargs: Any):
        super().__init__(**self.wire(kwargs, num_classes))

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Layer-wise depth, as mmpretrain's layer-decay constructor asks.

        Args:
            param_name (str): Name of a parameter of this model.

        Returns:
            tuple[int, int]: Depth, ``num_layers - 1`` for neck and heads,
            and ``num_layers``.
        """
        return self.backbone.get_layer_depth(param_name, 'backbone.')


def _wire_neck(model: dict[str, Any]) -> int | None:
    """Fill neck.in_channels and return neck.out_channels."""
    necks = _as_list(model.get('neck'))
    if not necks:
        raise MMHierError('the model has no neck: a detector needs one, such '
                          "as neck=dict(type='FPN', out_channels=256, "
                          'num_outs=5)')
    _fill(necks[0], 'in_channels', list(declared_channels(model['backbone'])),
          'neck', f"out_channels of {model['backbone']['type']}")
    return necks[-1].get('out_channels')


def _as_list(part: Any) -> list[dict]:
    """Configs of a part that may be absent, one or several."""
    if part is None:
        return []
    return list(part) if isinstance(part, (list, tuple)) else [part]


def _select(maps: Maps, in_index: int | Sequence[int],
            name: str) -> int | list[int]:
    """Channels of the maps that a head reads."""
    try:
        if isinstance(in_index, int):
            return maps[in_index]
        return [maps[i] for i in in_index]
    except IndexError as error:
        raise MMHierError(f'{name}.in_index={in_index}: there are only '
                          f'{len(maps)} maps, of channels '
                          f'{list(maps)}') from error


def _fill(part: dict, key: str, value: Any, name: str, source: str) -> None:
    """Set part[key] if it is left out, else compare it with value."""
    given = part.get(key)
    if given is None:
        if value is not None:
            part[key] = value
        return
    if isinstance(given, tuple):
        given = list(given)
    if value is not None and given != value:
        raise MMHierError(f'{name}.{key}={given} disagrees with {source}='
                          f'{value}: leave {name}.{key} out of the config, or '
                          f'change {source}')
