"""Writing checkpoint files that others load: converted and published ones."""
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
import mmhier
from mmhier.errors import MMHierError
from mmhier.files import file_sha256, make_writable, replacing
from mmhier.zoo import config_path
from .converting import convert_model_state_dict
from .loading import LoadReport
from .naming import name_with_hash
from .proving import describe_weights, find_variant
from .reading import read_checkpoint, unwrap_state_dict
from .resolving import resolve_checkpoint
from .safetensors_files import SUFFIX, pack_safetensors


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
        MMHierError: If the source cannot be read, belongs to no family or
            fits none of its variants, or the file exists.
    """
    _check_target(target)
    source = Path(resolve_checkpoint(source))
    state_dict = unwrap_state_dict(read_checkpoint(source))
    variant = find_variant(state_dict)
    if variant is None:
        raise MMHierError(
            f'{source} holds weights of no family that mmhier converts, but '
            f'{describe_weights(state_dict)}')
    family, arch, report = variant.family, variant.arch, variant.report
    report.source = source.name
    if report.fraction < min_matched:
        raise MMHierError(
            f'{source} fits no variant of {family.__name__}, {arch!r} comes '
            f'closest with {100 * report.fraction:.1f} % of the parameters '
            f'(at least {100 * min_matched:.0f} % are needed)\n{report}')
    meta = dict(
        mmhier_version=mmhier.__version__,
        family=family.__name__,
        arch=arch,
        arguments=variant.arguments,
        **_describe_source(source))
    converted = convert_model_state_dict(state_dict, family)
    content = dict(state_dict=converted, meta=meta)
    return _write_with_hash(content, target, overwrite), report


def publish_checkpoint_file(source: str | Path,
                            target: str | Path,
                            ema: str | None = None,
                            overwrite: bool = False,
                            safetensors: bool = False,
                            config: str | None = None) -> Path:
    """Leave the training state out of a checkpoint.

    Removed is the state for resuming (optimizer, schedules, message hub, the
    second copy of the weights that EMAHook keeps); weights and ``meta``
    (classes, epoch, config) stay. In a safetensors file, ``meta`` is
    ``dataset_meta`` with the classes, ``epoch``, ``iter``, ``config`` with
    the name of the config, and its ``preprocessing``.

    Args:
        source (str | Path): A checkpoint that training wrote.
        target (str | Path): The file to write; the first eight digits of its
            sha256 are added to the name.
        ema (str, optional): Which weights to keep of a checkpoint that
            EMAHook wrote, 'averaged' or 'raw' ones. Defaults to None, for
            checkpoints without.
        overwrite (bool): Replace an existing file. Defaults to False.
        safetensors (bool): Write a safetensors file. Defaults to False.
        config (str, optional): Config file or name, which a safetensors file
            needs. Defaults to None.

    Returns:
        Path: The file.

    Raises:
        MMHierError: If the source cannot be read, ``ema`` does not fit
            it, ``config`` is missing, or the file exists.
    """
    if safetensors != (config is not None):
        raise MMHierError('--safetensors needs --config, and --config is '
                          'for --safetensors: the file names its config '
                          'and its preprocessing')
    _check_target(target, safetensors)
    source = Path(resolve_checkpoint(source))
    content = read_checkpoint(source)
    weights = unwrap_state_dict(content)
    averages = content.get('ema_state_dict')
    if averages is None and ema is not None:
        raise MMHierError(f'{source} holds no ema_state_dict, so there is '
                          'no choice of weights: leave --ema out')
    if averages is not None and ema is None:
        raise MMHierError(
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
    kept = content.get('meta') or {}
    if config is None:
        meta = {key: kept[key] for key in kept if key != 'hook_msgs'}
    else:
        meta = {
            key: kept[key]
            for key in ('dataset_meta', 'epoch', 'iter') if key in kept
        }
        meta.update(_describe_config(config))
    meta['published'] = dict(
        mmhier_version=mmhier.__version__, ema=ema, **_describe_source(source))
    return _write_with_hash(
        dict(state_dict=weights, meta=meta), target, overwrite, safetensors)


def _describe_config(config: str) -> dict[str, Any]:
    """Name and preprocessing of a config."""
    path = config_path(config)
    if not Path(path).is_file():
        raise MMHierError(f'config {config} does not exist')
    cfg = Config.fromfile(path)
    preprocessing = dict(
        cfg.get('data_preprocessor') or {},
        **cfg.model.get('data_preprocessor', {}))
    return dict(
        config=Path(config).name.removesuffix('.py'),
        preprocessing=preprocessing)


def _describe_source(source: Path) -> dict[str, Any]:
    return dict(
        source=source.name,
        source_size=source.stat().st_size,
        source_sha256=file_sha256(source))


def _check_target(target: str | Path, safetensors: bool = False) -> None:
    """Check that a checkpoint can be written beside `target`."""
    suffixes = (SUFFIX, ) if safetensors else ('.pth', '.pt')
    if Path(target).suffix not in suffixes:
        raise MMHierError(f'{target} must end with {suffixes[0]}: the '
                          'suffix tells formats of checkpoints')
    make_writable('folder', Path(target).parent)


def _write_with_hash(content: dict,
                     target: str | Path,
                     overwrite: bool,
                     safetensors: bool = False) -> Path:
    """Write a checkpoint under a name with its hash; return its path."""
    target = Path(target)
    try:
        if safetensors:
            data = pack_safetensors(**content)
        else:
            # Given a path, torch would write its name into the archive, and
            # so into the hash.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            data = buffer.getvalue()
        named = name_with_hash(target, hashlib.sha256(data).hexdigest())
        if named.exists() and not overwrite:
            raise MMHierError(f'{named} exists: choose another name, '
                              'or replace it with --overwrite')
        with replacing(named) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise MMHierError(f'cannot write {target}: {error.strerror}') from error
    return named
