"""Safe reading of the predictions that tools/test.py writes."""
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2
from mmhier.errors import MMHierError


def _load_storage(data: bytes) -> Any:
    """Safe torch.storage._load_from_bytes."""
    return torch.load(io.BytesIO(data), weights_only=True)


def _encode(text: str, encoding: str) -> bytes:
    """_codecs.encode of latin1, used in pickles of bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes in {encoding!r}')
    return text.encode(encoding)


_ALLOWED = {
    ('_codecs', 'encode'): _encode,
    ('__builtin__', 'bytes'): bytes,
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor_v2,
    ('torch.storage', '_load_from_bytes'): _load_storage,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}
_core = np._core if hasattr(np, '_core') else np.core
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    _ALLOWED[_module, '_reconstruct'] = _core.multiarray._reconstruct
    _ALLOWED[_module, 'scalar'] = _core.multiarray.scalar


class _TensorUnpickler(pickle.Unpickler):
    """Build containers, numbers, strings, arrays and tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'{module}.{name} is not allowed')
        return _ALLOWED[module, name]


def read_predictions(path: str | Path) -> list[dict]:
    """Read a file that ``tools/test.py --out`` wrote.

    Args:
        path (str | Path): A pickle of mmengine's DumpResults.

    Returns:
        list[dict]: One data sample per image.

    Raises:
        MMHierError: If the file is missing, damaged, or holds something
            else than a list of dicts of numbers, strings, arrays and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MMHierError(f'predictions {path} do not exist')
    try:
        with path.open('rb') as file:
            content = _TensorUnpickler(file).load()
    # Errors of damaged opcode streams.
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError,
            IndexError, KeyError, TypeError, RuntimeError, OverflowError,
            MemoryError) as error:
        raise MMHierError(
            f'predictions {path} are damaged, or hold objects that could '
            f'execute code, and were not loaded ({error}): write them with '
            'tools/test.py --out') from error
    if not isinstance(content, list) or not content or not all(
            isinstance(sample, dict) for sample in content):
        raise MMHierError(
            f'predictions {path} are no list of data samples: write them '
            'with tools/test.py --out')
    return content
