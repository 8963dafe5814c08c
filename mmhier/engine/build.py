"""Building the model of a config."""
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from mmhier.checkpoints.initializer import use_safe_initializers
from mmhier.engine.config import (
    refuse_wired_types,
    resolve_type,
    type_name,
)
from mmhier.engine.geometry import keep_geometry_in_float32
from mmhier.errors import MMHierError
from mmhier.models.backbones.base import HierarchicalBackbone


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
    model = MODELS.build(use_safe_initializers(model_cfg))
    _check_channels(cfg.model, model, 'model')
    keep_geometry_in_float32(model)
    return model


def _refuse_pretrained(cfg: dict) -> None:
    """Refuse ``pretrained`` of a model, which mmseg and mmdet hand on.

    Args:
        cfg (dict): Config of a model.

    Raises:
        MMHierError: If it is set for a backbone of mmhier.
    """
    if not cfg.get('pretrained') or type_name(
            cfg.get('type')) == 'ImageClassifier':  # whose whole it names
        return
    kind = resolve_type((cfg.get('backbone') or {}).get('type'), MODELS)
    if isinstance(kind, type) and issubclass(kind, HierarchicalBackbone):
        raise MMHierError(
            f'model.pretrained={cfg["pretrained"]!r} holds weights of another '
            f'backbone than {kind.__name__}: set model.pretrained=None, and '
            'name weights in model.backbone.init_cfg')


def _check_channels(cfg: dict, model: nn.Module, name: str) -> None:
    """Compare stated channels with those of the built backbone.

    Only backbones of mmhier are compared: others need not declare the
    channels of their maps.

    Args:
        cfg (dict): Config that the model was built from.
        model (nn.Module): Detector, segmentor or classifier, or its wrapper.
        name (str): Key of the config, for the message.
    """
    if 'module' in cfg and hasattr(model, 'module'):
        _check_channels(cfg['module'], model.module, f'{name}.module')
        return
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, HierarchicalBackbone):
        return
    wrong = [
        item for item in _stated_channels(cfg, backbone.out_channels)
        if item.stated is not None
        and _as_list(item.stated) != _as_list(item.received)
    ]
    if not wrong:
        return
    source = wrong[0].source
    wrong = [item for item in wrong if item.source == source]
    if source == 'backbone':
        returned = (f'{_describe(cfg["backbone"])} returns '
                    f'{list(backbone.out_channels)}')
    else:
        returned = f'{name}.{source}'
    stated = ' and '.join(f'{name}.{i.key}={i.stated}' for i in wrong)
    wanted = ' and '.join(f'{name}.{i.key}={i.received}' for i in wrong)
    raise MMHierError(f'{stated} but {returned}: set {wanted}')


def _stated_channels(model: dict,
                     out_channels: tuple[int, ...]) -> Iterator[_Channels]:
    """Channels of the parts of a model, first those of the backbone."""
    maps: list[int] = list(out_channels)
    necks = _parts(model, 'neck')
    if necks:
        stated = necks[0][1].get('in_channels')
        received: Any = maps
        if isinstance(stated, int):
            received = maps[-1]
        elif stated == maps[::-1]:  # YOLOv3's neck starts from the last map
            received = stated
        yield _Channels(f'{necks[0][0]}.in_channels', stated, received,
                        'backbone')
    width = necks[-1][1].get('out_channels') if necks else None
    if isinstance(width, int):
        source = f'{necks[-1][0]}.out_channels={width}'
        for key, head in _map_heads(model):
            stated = head.get('in_channels')
            received = width
            if isinstance(stated, (list, tuple)):
                received = [width] * len(stated)
            yield _Channels(f'{key}.in_channels', stated, received, source)
        for key, extractor in _roi_extractors(model):
            yield _Channels(f'{key}.out_channels',
                            extractor.get('out_channels'), width, source)
    elif not necks:
        for name in ('decode_head', 'auxiliary_head', 'panoptic_head'):
            for key, head in _parts(model, name):
                yield _Channels(f'{key}.in_channels', head.get('in_channels'),
                                _select(maps, head, key), 'backbone')
    if all(type_name(neck['type']).endswith('Pooling') for _, neck in necks):
        for key, head in _parts(model, 'head'):
            yield _Channels(f'{key}.in_channels', head.get('in_channels'),
                            maps[-1], 'backbone')


def _map_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Heads that read the maps of the neck."""
    for name in ('rpn_head', 'bbox_head', 'decode_head', 'auxiliary_head'):
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


def _describe(backbone: dict) -> str:
    """Such as mmhier.HATNet(arch='tiny')."""
    kind = backbone['type']
    name = kind if isinstance(kind, str) else kind.__name__
    arch = backbone.get('arch')
    settings = [f'arch={arch!r}'] if isinstance(arch, str) else ['arch={...}']
    if 'out_indices' in backbone:
        settings.append(f'out_indices={tuple(backbone["out_indices"])}')
    return f'{name}({", ".join(settings)})'
