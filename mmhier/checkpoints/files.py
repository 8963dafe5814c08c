"""Converting an official checkpoint file into one of mmhier."""
import hashlib
import os
from pathlib import Path
from typing import Tuple, Union

import torch
import mmhier
from mmhier.registry import MODELS
from .converting import convert_model_state_dict
from .loading import LoadReport, match_backbone_weights
from .reading import CheckpointError, read_checkpoint, unwrap_state_dict


def convert_checkpoint_file(source: Union[str, Path],
                            target: Union[str, Path],
                            min_matched: float = 0.95,
                            overwrite: bool = False) -> LoadReport:
    """Convert an official classifier, detector or segmentor checkpoint.

    Family and variant are found by the names and shapes of the weights. The
    new file holds ``state_dict``, named as in a model of mmpretrain, mmdet 3.x
    or mmseg 1.x with the backbone of mmhier, and ``meta`` with the family,
    the variant and the name and sha256 of the source.

    Args:
        source (str | Path): A file of the authors of HAT-Net, LIT or HVT.
        target (str | Path): The file to write.
        min_matched (float): Share of the backbone's parameters that must be
            found. Defaults to 0.95.
        overwrite (bool): Replace an existing target. Defaults to False.

    Returns:
        LoadReport: How the weights fit the backbone.

    Raises:
        CheckpointError: If the source cannot be read, belongs to no family or
            fits none of its variants, or the target exists.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not overwrite:
        raise CheckpointError(f'{target} exists: choose another name, or say '
                              'that it may be overwritten')
    state_dict = unwrap_state_dict(read_checkpoint(source))
    family, converted = _find_family(state_dict, source)
    arch, report = _find_arch(family, state_dict, source)
    if report.fraction < min_matched:
        raise CheckpointError(
            f'{source} fits no variant of {family.__name__}, {arch!r} comes '
            f'closest with {100 * report.fraction:.1f} % of the parameters '
            f'(at least {100 * min_matched:.0f} % are needed)\n{report}')
    meta = dict(
        mmhier_version=mmhier.__version__,
        family=family.__name__,
        arch=arch,
        source=source.name,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest())
    temporary = target.with_name(f'{target.name}.{os.getpid()}.tmp')
    try:
        torch.save(dict(state_dict=converted, meta=meta), temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise CheckpointError(
            f'cannot write {target}: {error.strerror}') from error
    finally:
        temporary.unlink(missing_ok=True)
    return report


def _find_family(state_dict: dict, source: Path) -> Tuple[type, dict]:
    """Backbone class whose official names these are, and new names."""
    MODELS.import_from_location()
    families = [
        cls for cls in MODELS.module_dict.values()
        if hasattr(cls, 'convert_official')
    ]
    for cls in families:
        converted = convert_model_state_dict(state_dict, cls)
        if converted is not None:
            return cls, converted
    raise CheckpointError(
        f'{source} holds official weights of no family that mmhier converts '
        f'({", ".join(cls.__name__ for cls in families)}): its names begin '
        f'with {", ".join(list(state_dict)[:3])}')


def _find_arch(family: type, state_dict: dict,
               source: Path) -> Tuple[str, LoadReport]:
    """Variant that the weights fit best, and how."""
    reports = {}
    for arch in family.arch_zoo:
        with torch.device('meta'):
            backbone = family(arch)
        reports[arch], _ = match_backbone_weights(backbone, state_dict,
                                                  source.name)
    # Variants without some parts match as well, but leave weights unused.
    best = max(reports, key=lambda arch:
               (reports[arch].fraction, -len(reports[arch].unused)))
    return best, reports[best]
