"""Writing checkpoint files that others load: converted and published ones."""
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
import mmhier
from mmhier.files import file_sha256, replacing
from mmhier.registry import MODELS
from .converting import convert_model_state_dict
from .loading import LoadReport, match_backbone_weights
from .naming import CheckpointError, find_checkpoint, name_with_hash
from .reading import read_checkpoint, unwrap_state_dict


def convert_checkpoint_file(source: str | Path,
                            target: str | Path,
                            min_matched: float = 0.95,
                            overwrite: bool = False) -> tuple[Path, LoadReport]:
    """Convert an official classifier, detector or segmentor checkpoint.

    Family and variant are found by the names and shapes of the weights. The
    new file holds ``state_dict``, named as in a model of mmpretrain, mmdet 3.x
    or mmseg 1.x with the backbone of mmhier, and ``meta`` with the family,
    the variant, the other arguments that show in the weights, and the name,
    size and sha256 of the source. The same source gives the same bytes.

    Args:
        source (str | Path): A file of the authors of HAT-Net, LIT, LITv2
            or HVT.
        target (str | Path): The file to write; the first eight digits of its
            sha256 are added to the name, as in ``hatnet-tiny-1a2b3c4d.pth``.
        min_matched (float): Share of the backbone's parameters that must be
            found. Defaults to 0.95.
        overwrite (bool): Replace an existing file. Defaults to False.

    Returns:
        tuple[Path, LoadReport]: The file, and how the weights fit the
        backbone.

    Raises:
        CheckpointError: If the source cannot be read, belongs to no family or
            fits none of its variants, or the file exists.
    """
    source = Path(find_checkpoint(source))
    state_dict = unwrap_state_dict(read_checkpoint(source))
    family, converted = _find_family(state_dict, source)
    arch, arguments, report = _find_arch(family, state_dict, converted, source)
    if report.fraction < min_matched:
        raise CheckpointError(
            f'{source} fits no variant of {family.__name__}, {arch!r} comes '
            f'closest with {100 * report.fraction:.1f} % of the parameters '
            f'(at least {100 * min_matched:.0f} % are needed)\n{report}')
    meta = dict(
        mmhier_version=mmhier.__version__,
        family=family.__name__,
        arch=arch,
        arguments=arguments,
        **_describe_source(source))
    content = dict(state_dict=converted, meta=meta)
    return _write_with_hash(content, target, overwrite), report


def publish_checkpoint_file(source: str | Path,
                            target: str | Path,
                            ema: str | None = None,
                            overwrite: bool = False) -> Path:
    """Leave the training state out of a checkpoint.

    What is needed to resume (optimizer, schedules, message hub, the second
    copy of the weights that EMAHook keeps) goes; weights and ``meta``
    (classes, epoch, config) stay.

    Args:
        source (str | Path): A checkpoint that training wrote.
        target (str | Path): The file to write; the first eight digits of its
            sha256 are added to the name.
        ema (str, optional): Which weights to keep of a checkpoint that
            EMAHook wrote, 'averaged' or 'raw' ones. Defaults to None, for
            checkpoints without.
        overwrite (bool): Replace an existing file. Defaults to False.

    Returns:
        Path: The file.

    Raises:
        CheckpointError: If the source cannot be read, ``ema`` does not fit
            it, or the file exists.
    """
    source = Path(find_checkpoint(source))
    content = read_checkpoint(source)
    weights = unwrap_state_dict(content)
    averages = content.get('ema_state_dict')
    if averages is None and ema is not None:
        raise CheckpointError(f'{source} holds no ema_state_dict, so there is '
                              'no choice of weights: leave --ema out')
    if averages is not None and ema is None:
        raise CheckpointError(
            f'{source} holds averaged weights and those that the optimizer '
            'left: choose with --ema averaged (which were evaluated in '
            'training) or --ema raw')
    if ema == 'raw' and averages is not None:
        # EMAHook swaps the two when it saves.
        weights.update({
            name: value
            for name, value in unwrap_state_dict(averages).items()
            if name in weights
        })
    meta = {
        key: value
        for key, value in (content.get('meta') or {}).items()
        if key != 'hook_msgs'
    }
    meta['published'] = dict(
        mmhier_version=mmhier.__version__, ema=ema, **_describe_source(source))
    return _write_with_hash(
        dict(state_dict=weights, meta=meta), target, overwrite)


def _describe_source(source: Path) -> dict[str, Any]:
    return dict(
        source=source.name,
        source_size=source.stat().st_size,
        source_sha256=file_sha256(source))


def _write_with_hash(content: dict, target: str | Path,
                     overwrite: bool) -> Path:
    """Write a checkpoint under a name with its hash; return its path."""
    target = Path(target)
    if target.suffix not in ('.pth', '.pt'):
        raise CheckpointError(f'{target} must end with .pth: mmengine tells '
                              'checkpoints by their names')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Given a path, torch would write its name into the archive, and so
        # into the hash.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        named = name_with_hash(target, digest)
        if named.exists() and not overwrite:
            raise CheckpointError(f'{named} exists: choose another name, '
                                  'or replace it with --overwrite')
        with replacing(named) as partial:
            partial.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise CheckpointError(
            f'cannot write {target}: {error.strerror}') from error
    return named


def _find_family(state_dict: dict, source: Path) -> tuple[type[Any], dict]:
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


def _find_arch(family: type[Any], state_dict: dict, converted: dict,
               source: Path) -> tuple[str, dict, LoadReport]:
    """Variant that the weights fit best, its other arguments, and how."""
    prefix = 'backbone.'
    arguments = family.official_arguments({
        name[len(prefix):]: value
        for name, value in converted.items() if name.startswith(prefix)
    })
    reports = {}
    for arch in family.arch_zoo:
        with torch.device('meta'):
            backbone = family(arch, **arguments)
        reports[arch], _ = match_backbone_weights(backbone, state_dict,
                                                  source.name)
    # Variants without some parts match as well, but leave weights unused.
    best = max(
        reports,
        key=lambda arch: (reports[arch].fraction, -len(reports[arch].unused)))
    return best, arguments, reports[best]
