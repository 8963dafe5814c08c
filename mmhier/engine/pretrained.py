"""Weights that a training starts from, found before data is read."""
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmhier.checkpoints import official_weights, resolve_checkpoint
from mmhier.engine.config import type_name
from mmhier.models import backbones


def find_pretrained(cfg: Config, from_scratch: bool = False) -> str:
    """Find the weights that ``init_cfg`` of any part of a model names.

    Args:
        cfg (Config): Changed in place if `from_scratch`.
        from_scratch (bool): Remove them instead, and ``load_from``, unless it
            is resumed. Defaults to False.

    Returns:
        str: Description of the initial weights, for the log.

    Raises:
        MMHierError: If they are neither in a folder, nor in the cache,
            nor reachable.
    """
    found = list(_iter_pretrained(cfg.model, 'model'))
    if from_scratch:
        for _, owner, _ in found:
            owner['init_cfg'] = None
        if not cfg.get('resume'):
            cfg.load_from = None
        return 'random weights: --from-scratch'
    if found:
        return 'pretrained weights: ' + ', '.join(
            f'{name} from {init["checkpoint"]} '
            f'({resolve_checkpoint(init["checkpoint"])})'
            for name, _, init in found)
    family = type_name(cfg.model.get('backbone', {}).get('type'))
    families = {weights.family for weights in official_weights().values()}
    if family in backbones.__all__ and family not in families:
        return ("random weights: no official ones exist; train mmhier's in1k "
                'config first or pass your own (init_cfg of the backbone)')
    return 'random weights: the model has no init_cfg with a checkpoint'


def _iter_pretrained(
        settings: Any,
        name: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Dotted key, settings and ``init_cfg`` of parts that load a checkpoint."""
    if isinstance(settings, (list, tuple)):
        for i, item in enumerate(settings):
            yield from _iter_pretrained(item, f'{name}.{i}')
    elif isinstance(settings, dict):
        inits = settings.get('init_cfg')
        for init in inits if isinstance(inits, (list, tuple)) else [inits]:
            if isinstance(init, dict) and init.get('type') == 'Pretrained':
                yield name, settings, init
        for key, value in settings.items():
            if key != 'init_cfg':
                yield from _iter_pretrained(value, f'{name}.{key}')
