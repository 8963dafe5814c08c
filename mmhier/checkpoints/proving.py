"""Tell by names, shapes and values which model a checkpoint belongs to."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import Size, Tensor
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from mmhier.zoo import config_path
from .converting import convert_model_state_dict
from .loading import LoadReport, match_backbone_weights
from .official import OfficialWeights
from .reading import read_checkpoint, unwrap_state_dict

# Parts of a model by the prefix of their names.
_TASKS = {
    'roi_head.': 'COCO detector with masks',
    'bbox_head.': 'COCO detector',
    'decode_head.': 'ADE20K segmentor',
    'head.': 'ImageNet classifier',
}
_NUM_CLASSES = 1000


def prove_official(path: Path, weights: OfficialWeights) -> None:
    """Check a file against the table of official weights.

    The authors publish no hashes. The proof is that every name and shape of
    the model is in the file and nothing else, apart from the parameters that
    the authors' files never hold, and that every value is finite.

    Args:
        path (Path): The authors' file, or one that was converted from it.
        weights (OfficialWeights): The expected weights.

    Raises:
        MMHierError: If it cannot be read or differs, with the name of the
            model that it belongs to instead.
    """
    state_dict = unwrap_state_dict(read_checkpoint(path))
    family: Any = MODELS.get(weights.family)
    if family is None:
        raise MMHierError(f'mmhier has no family {weights.family}')
    converted = convert_model_state_dict(state_dict, family)
    differences = _differences(converted or state_dict,
                               *expected_shapes(weights))
    if differences:
        raise MMHierError(f'not the weights of {weights}, but '
                          f'{describe_weights(state_dict)}: {differences}')
    for name, value in state_dict.items():
        if not value.isfinite().all():
            raise MMHierError(f'{name} holds values that are not finite')


@dataclass
class Variant:
    """Backbone that weights belong to.

    Attributes:
        family (type): Its class.
        arch (str): Variant of the family.
        arguments (dict): Its other arguments that show in the weights.
        report (LoadReport): How the weights fit it.
    """
    family: Any
    arch: str
    arguments: dict[str, Any]
    report: LoadReport


def find_variant(state_dict: dict[str, Tensor]) -> Variant | None:
    """Find the family and the variant that weights fit best.

    Args:
        state_dict (dict): In the authors' names, unwrapped.

    Returns:
        Variant | None: None if the names are of no family.
    """
    MODELS.import_from_location()
    fits: list[Variant] = []
    for family in MODELS.module_dict.values():
        if not hasattr(family, 'convert_official'):
            continue
        converted = convert_model_state_dict(state_dict, family)
        if converted is None:
            continue
        prefix = 'backbone.'
        arguments = family.official_arguments({
            name.removeprefix(prefix): value
            for name, value in converted.items() if name.startswith(prefix)
        })
        for arch in family.arch_zoo:
            with torch.device('meta'):
                backbone = family(arch, **arguments)
            report, _ = match_backbone_weights(backbone, state_dict)
            fits.append(Variant(family, arch, arguments, report))
    # Variants without some parts match as well, but leave weights unused.
    return max(
        fits,
        key=lambda fit: (fit.report.fraction, -len(fit.report.unused)),
        default=None)


def describe_weights(state_dict: dict[str, Tensor]) -> str:
    """Describe the model that weights in the authors' names belong to."""
    variant = find_variant(state_dict)
    if variant is None or variant.report.fraction < 0.95:
        text = 'another network'
        if any(
                name.startswith('blocks.') and name.endswith('running_mean')
                for name in state_dict):
            text += (' with BatchNorm in its blocks, like the TransCNN-*.pth '
                     "of HAT-Net's release v1.0")
        return f'{text} ({", ".join(list(state_dict)[:3])}, ...)'
    names = convert_model_state_dict(state_dict, variant.family) or ()
    task = next((task for prefix, task in _TASKS.items() if any(
        name.startswith(prefix) for name in names)), 'backbone')
    return f'those of {variant.family.__name__} {variant.arch}, {task}'


def expected_shapes(
        weights: OfficialWeights) -> tuple[dict[str, Size], set[str]]:
    """Names and shapes of the model that official weights belong to.

    Of a classifier, only the backbone is built, so that mmdet and mmseg can
    use its weights where mmpretrain is not installed.

    Args:
        weights (OfficialWeights): Entry of the table.

    Returns:
        tuple[dict[str, Size], set[str]]: Shapes by name, and the names that
        the authors' files never hold.
    """
    cfg = Config.fromfile(config_path(weights.config))
    cfg.model.backbone.update(weights.backbone, init_cfg=None)
    is_classifier = weights.task == _TASKS['head.']
    with (torch.device('meta'),
          DefaultScope.overwrite_default_scope(cfg.default_scope)):
        if is_classifier:
            backbone = MODELS.build(cfg.model.backbone)
            whole = {f'backbone.{k}': v for k, v in _shapes(backbone).items()}
            channels = backbone.out_channels[-1]
            whole['head.fc.weight'] = Size((_NUM_CLASSES, channels))
            whole['head.fc.bias'] = Size((_NUM_CLASSES, ))
        else:
            model = MMENGINE_MODELS.build(cfg.model)
            backbone, whole = model.backbone, _shapes(model)
    new = {
        name
        for name in whole
        if name.removeprefix('backbone.').startswith(backbone.new_parameters)
    }
    return whole, new


def _shapes(module: torch.nn.Module) -> dict[str, Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _differences(found: Mapping[str, Tensor], expected: dict[str, Size],
                 new: set[str]) -> str:
    """Names that are missing, unknown or of another shape; '' if none."""
    parts = []
    for kind, names in {
            'missing': expected.keys() - new - found.keys(),
            'not in the model': found.keys() - expected.keys(),
            'of another shape': {
                name
                for name in found.keys() & expected.keys()
                if found[name].shape != expected[name]
            }
    }.items():
        if names:
            shown = ', '.join(sorted(names)[:2]) + ', ...' * (len(names) > 2)
            parts.append(f'{len(names)} {kind} ({shown})')
    return '; '.join(parts)
