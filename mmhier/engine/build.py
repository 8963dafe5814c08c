"""Building the model of a config."""
from collections.abc import Iterator
from copy import deepcopy
from inspect import getmro, isclass
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from mmhier.checkpoints.initializer import use_safe_initializers
from mmhier.engine.config import refuse_wired_types, resolve_type, type_name
from mmhier.engine.geometry import keep_geometry_in_float32
from mmhier.errors import MMHierError
from mmhier.models.backbones.base import HierarchicalBackbone

# Classification heads of mmpretrain that read vectors.
_VECTOR_HEADS = {
    'ArcFaceClsHead', 'LinearClsHead', 'MultiLabelLinearClsHead',
    'StackedLinearClsHead', 'VisionTransformerClsHead'
}


class _Channels(NamedTuple):
    """Channels that a part states, and those that it receives."""
    key: str
    stated: Any
    received: Any
    source: str


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config; its weights are not initialized.

    A top-level ``data_preprocessor`` is merged into a model that has none, as
    mmengine's Runner and mmpretrain's ``get_model`` do. Detectors compute boxes
    in float32 under autocast, too.

    Args:
        cfg (Config): Config for mmdet, mmseg or mmpretrain, with ``model`` a
            detector, segmentor, classifier, TTA wrapper or backbone. It is
            left unchanged.

    Returns:
        nn.Module: The model, in training mode.

    Raises:
        MMHierError: If a neck or head states other channels than a backbone
            of mmhier, or the neck, returns.
    """
    refuse_wired_types(cfg)
    if cfg.get('default_scope'):
        init_default_scope(cfg.default_scope)
    _refuse_pretrained(cfg.model)
    model_cfg = deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor',
                             deepcopy(cfg.data_preprocessor))
    _check_channels(model_cfg, 'model')
    model = MODELS.build(use_safe_initializers(model_cfg))
    keep_geometry_in_float32(model)
    return model


def _refuse_pretrained(cfg: dict) -> None:
    """Refuse ``pretrained``, which mmseg and mmdet pass to the backbone.

    Args:
        cfg (dict): Config of a model.

    Raises:
        MMHierError: If it is set for a backbone of mmhier.
    """
    if not cfg.get('pretrained') or type_name(
            cfg.get('type')) == 'ImageClassifier':  # weights of all of it
        return
    kind = resolve_type((cfg.get('backbone') or {}).get('type'), MODELS)
    if isinstance(kind, type) and issubclass(kind, HierarchicalBackbone):
        raise MMHierError(
            f'model.pretrained={cfg["pretrained"]!r} holds weights of another '
            f'backbone than {kind.__name__}: set model.pretrained=None, and '
            'name weights in model.backbone.init_cfg')


def _check_channels(model: dict, name: str) -> None:
    """Compare stated channels with those of the backbone.

    Called before the model is built, since mmdet asserts some of them without
    a message. Only backbones of mmhier are compared: others need not declare
    the channels of their maps.

    Args:
        model (dict): Config of a detector, segmentor or classifier, or of a
            wrapper of one, such as a TTA model or a tracker.
        name (str): Its key, for the message.

    Raises:
        MMHierError: Names the keys and the values to set.
    """
    for key, part in model.items():
        if isinstance(part, dict) and 'backbone' in part:
            _check_channels(part, f'{name}.{key}')
    backbone = _build_backbone(model.get('backbone'))
    if backbone is None:
        return
    _check_pooling(model, backbone, name)
    wrong = [
        item for item in _stated_channels(model, backbone.out_channels)
        if item.stated is not None
        and _as_list(item.stated) != _as_list(item.received)
    ]
    if not wrong:
        return
    source = wrong[0].source
    wrong = [item for item in wrong if item.source == source]
    if source == 'backbone':
        returned = (f'{_describe(model["backbone"])} returns '
                    f'{list(backbone.out_channels)}')
    else:
        returned = f'{name}.{source}'
    stated = ' and '.join(f'{name}.{i.key}={i.stated}' for i in wrong)
    wanted = ' and '.join(f'{name}.{i.key}={_as_stated(i.received, i.stated)}'
                          for i in wrong)
    raise MMHierError(f'{stated} but {returned}: set {wanted}')


def _build_backbone(cfg: dict | None) -> HierarchicalBackbone | None:
    """Build a backbone of mmhier on the meta device; None for any other."""
    kind = resolve_type((cfg or {}).get('type'), MODELS) if cfg else None
    if not (isclass(kind) and issubclass(kind, HierarchicalBackbone)):
        return None
    with torch.device('meta'):
        return MODELS.build(deepcopy(cfg))


def _check_pooling(model: dict, backbone: HierarchicalBackbone,
                   name: str) -> None:
    """Refuse a linear classifier on maps that no neck averages."""
    if (not model.get('head') or _parts(model, 'neck')
            or getattr(backbone, 'out_type', 'featmap') != 'featmap'):
        return
    head = resolve_type(model['head'].get('type'), MODELS)
    if isclass(head) and any(
            cls.__name__ in _VECTOR_HEADS for cls in getmro(head)):
        # A None of a base config is replaced, not merged with.
        delete = '_delete_=True, ' if 'neck' in model else ''
        raise MMHierError(
            f'{name}.neck is missing: {_describe(model["backbone"])} returns '
            f'maps, {head.__name__} expects vectors: set '
            f"{name}.neck=dict({delete}type='GlobalAveragePooling')")


def _stated_channels(model: dict,
                     out_channels: tuple[int, ...]) -> Iterator[_Channels]:
    """Channels of the parts of a model, first those of the backbone."""
    maps: list[int] = list(out_channels)
    necks = _parts(model, 'neck')
    if necks:
        yield from _channels_of_neck(*necks[0], maps)
        yield from _channels_behind_neck(model, *necks[-1])
    else:
        yield from _channels_without_neck(model, maps)
    if all(type_name(neck['type']).endswith('Pooling') for _, neck in necks):
        for key, head in _parts(model, 'head'):
            yield _Channels(f'{key}.in_channels', head.get('in_channels'),
                            maps[-1], 'backbone')


def _channels_of_neck(key: str, neck: dict,
                      maps: list[int]) -> Iterator[_Channels]:
    """Channels of the backbone's maps that the first neck states."""
    stated = neck.get('in_channels')
    kind = type_name(neck['type'])
    received: Any = maps
    if isinstance(stated, int):
        received = maps[-1]
    elif kind == 'YOLOV3Neck':  # starts from the last map
        received = maps[::-1]
    yield _Channels(f'{key}.in_channels', stated, received, 'backbone')
    if kind == 'SSDNeck':  # returns the backbone's maps before its own
        own = list(neck['out_channels'])[len(maps):]
        yield _Channels(f'{key}.out_channels', neck['out_channels'], maps + own,
                        'backbone')


def _channels_behind_neck(model: dict, neck_key: str,
                          neck: dict) -> Iterator[_Channels]:
    """Channels of the last neck's maps that heads state."""
    width = neck.get('out_channels')
    if width is None:
        return
    source = f'{neck_key}.out_channels={width}'
    for key, head in _map_heads(model):
        stated = head.get('in_channels')
        received = width
        if isinstance(stated, (list, tuple)) and isinstance(width, int):
            received = [width] * len(stated)
        elif isinstance(stated, int) and not isinstance(width, int):
            continue  # which of several widths it reads is unknown
        yield _Channels(f'{key}.in_channels', stated, received, source)
    if isinstance(width, int):
        for key, extractor in _roi_extractors(model):
            yield _Channels(f'{key}.out_channels',
                            extractor.get('out_channels'), width, source)


def _channels_without_neck(model: dict, maps: list[int]) -> Iterator[_Channels]:
    """Channels of the backbone's maps that heads state."""
    for name in ('decode_head', 'auxiliary_head', 'panoptic_head',
                 'track_head'):
        for key, head in _parts(model, name):
            yield from _channels_of_segmentation_head(key, head, maps)
    if 'shared_head' in (model.get('roi_head') or {}):
        return
    for name, prefix, part in (('rpn_head', '', model), ('bbox_head', '',
                                                         model),
                               ('bbox_head', 'roi_head.', model.get('roi_head')
                                or {})):
        for key, head in _parts(part, name, prefix):
            yield _Channels(f'{key}.in_channels', head.get('in_channels'),
                            maps[-1], 'backbone')
    for key, extractor in _roi_extractors(model):
        yield _Channels(f'{key}.out_channels', extractor.get('out_channels'),
                        maps[-1], 'backbone')


def _channels_of_segmentation_head(key: str, head: dict,
                                   maps: list[int]) -> Iterator[_Channels]:
    """Channels of the backbone's maps that a head of mmseg states."""
    if 'kernel_generate_head' in head:  # K-Net's
        key, head = f'{key}.kernel_generate_head', head['kernel_generate_head']
    yield _Channels(f'{key}.in_channels', head.get('in_channels'),
                    _select(maps, head, key), 'backbone')
    # DeepLabV3+ adds details of the first map.
    yield _Channels(f'{key}.c1_in_channels',
                    head.get('c1_in_channels') or None, maps[0], 'backbone')


def _map_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Heads that read the maps of the neck."""
    for name in ('rpn_head', 'bbox_head', 'mask_head', 'semantic_head',
                 'decode_head', 'auxiliary_head'):
        yield from _parts(model, name)
    roi_head = model.get('roi_head') or {}
    if 'shared_head' not in roi_head:
        for name in ('bbox_head', 'mask_head'):
            yield from _parts(roi_head, name, 'roi_head.')


def _roi_extractors(model: dict) -> Iterator[tuple[str, dict]]:
    roi_head = model.get('roi_head') or {}
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        yield from _parts(roi_head, name, 'roi_head.')


def _parts(model: dict, name: str, prefix: str = '') -> list[tuple[str, dict]]:
    """Keys and configs of a part that may be absent, one or several."""
    part = model.get(name)
    if isinstance(part, (list, tuple)):
        return [(f'{prefix}{name}.{i}', item) for i, item in enumerate(part)]
    return [] if part is None else [(f'{prefix}{name}', part)]


def _select(maps: list[int], head: dict, key: str) -> int | list[int]:
    """Channels of the maps that a segmentation head reads."""
    index = head.get('in_index', -1)
    if isinstance(index, int) and isinstance(
            head.get('in_channels'), (list, tuple)):
        return maps  # Mask2Former's heads have no in_index
    try:
        if isinstance(index, int):
            return maps[index]
        return [maps[i] for i in index]
    except IndexError as error:
        raise MMHierError(
            f'model.{key}.in_index={index}: the backbone returns only '
            f'{len(maps)} maps, of channels {maps}') from error


def _as_list(channels: Any) -> Any:
    return list(channels) if isinstance(channels, tuple) else channels


def _as_stated(received: Any, stated: Any) -> Any:
    """A tuple if a tuple is stated: some necks of mmseg require one."""
    return tuple(received) if isinstance(stated, tuple) else received


def _describe(backbone: dict) -> str:
    """Such as mmhier.HATNet(arch='tiny')."""
    kind = backbone['type']
    name = kind if isinstance(kind, str) else kind.__name__
    arch = backbone.get('arch')
    settings = [f'arch={arch!r}'] if isinstance(arch, str) else ['arch={...}']
    if 'out_indices' in backbone:
        settings.append(f'out_indices={tuple(backbone["out_indices"])}')
    return f'{name}({", ".join(settings)})'
