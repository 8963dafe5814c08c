"""Reading checkpoint files without executing any code in them."""
import argparse
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from torch import Tensor
from mmhier.errors import MMHierError
from .naming import verify_name
from .resolving import resolve_checkpoint
from .safetensors_files import SUFFIX, read_safetensors


def _get_method(owner: Any, name: str) -> Any:
    """Stand-in for getattr, by which mmengine's files name four methods.

    The real one would let a file reach modules and replace their functions.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')


_get_method.__module__ = 'builtins'
_get_method.__name__ = _get_method.__qualname__ = 'getattr'

# Types that training scripts leave beside the tensors. None of them runs code
# of the file when it is rebuilt.
_numpy_core = np._core if hasattr(np, '_core') else np.core
SAFE_TYPES = [
    # What Swin-style trainers keep; torch fills no other kind of dict.
    (OrderedDict, 'yacs.config.CfgNode'),
    argparse.Namespace,
    HistoryBuffer,
    _get_method,
    np.ndarray,
    np.dtype,
    _numpy_core.multiarray._reconstruct,
    _numpy_core.multiarray.scalar,
    *{
        type(np.dtype(t))
        for t in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u4', '?')
    }
]


def allow_safe_types() -> None:
    """Allow :data:`SAFE_TYPES` in files that torch reads as weights only.

    They stay allowed: leaving ``safe_globals`` would unregister types that
    others registered.
    """
    torch.serialization.add_safe_globals(SAFE_TYPES)


def read_checkpoint(path: str | Path,
                    map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file, refusing anything that would execute code.

    Args:
        path (str | Path): A file written by ``torch.save`` or safetensors,
            or a name or a URL of one, see :func:`resolve_checkpoint`. A hash
            in its name is verified.
        map_location (Any): Where tensors go, as in ``torch.load``.
            Defaults to 'cpu'.

    Returns:
        dict: Content of the file.

    Raises:
        MMHierError: If the file is missing, empty, truncated, damaged,
            not a checkpoint, does not match the hash in its name, or holds
            types that are not on the allow-list.
    """
    found = resolve_checkpoint(path)
    if '://' in found:
        raise MMHierError(
            f'checkpoint {found}: mmhier reads no such URLs; download it into '
            'the folder that the environment variable MMHIER_WEIGHTS names')
    path = Path(found)
    verify_name(path)
    if path.name.removesuffix('.part').endswith(SUFFIX):
        return read_safetensors(path, map_location)
    allow_safe_types()
    try:
        damaged = _find_damaged_record(path)
        if damaged is not None:
            raise MMHierError(
                f'checkpoint {path} is damaged: the checksum of its part '
                f'{damaged} is wrong. Copy or download it again')
        content = torch.load(path, map_location, weights_only=True)
    except (EOFError, OSError, RuntimeError, UnicodeDecodeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise MMHierError(
            f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or'
            ' not a checkpoint: copy or download it again '
            f'({_first_line(error)})') from error
    except pickle.UnpicklingError as error:
        raise MMHierError(
            f'checkpoint {path} is damaged, or holds objects that could '
            'execute code and was not loaded: save it again with tensors '
            f'only ({_first_line(error)})') from error
    if not isinstance(content, dict):
        raise MMHierError(f'checkpoint {path} holds a '
                          f'{type(content).__name__}, not a dict')
    return content


def _find_damaged_record(path: Path) -> str | None:
    """Name of a tensor's file whose checksum, which torch writes but does
    not look at, is wrong; None for a sound file or one of the old format."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _first_line(error: Exception) -> str:
    """Error message of torch without its advice to load unsafely."""
    text = str(error)
    _, marker, reason = text.partition('WeightsUnpickler error: ')
    lines = (reason if marker else text).strip().splitlines()
    return lines[0].split('. Please use')[0][:200] if lines else 'empty file'


def unwrap_state_dict(content: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a checkpoint, however it is wrapped.

    Args:
        content (dict): A bare state dict, or one under 'state_dict' or
            'model'; names may carry a 'module.' prefix.

    Returns:
        dict[str, Tensor]: Names without 'module.'.

    Raises:
        MMHierError: If there are no tensors.
    """
    for key in ('state_dict', 'model'):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    weights = {
        name[len('module.'):] if name.startswith('module.') else name: value
        for name, value in content.items() if isinstance(value, Tensor)
    }
    if not weights:
        raise MMHierError('the checkpoint holds no weights: expected '
                          'tensors, bare or under "state_dict" or "model"')
    return weights
