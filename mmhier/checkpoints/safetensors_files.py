"""Checkpoints as safetensors files, whose metadata are JSON texts."""
import json
from pathlib import Path
from typing import Any

from torch import Tensor
from mmhier.errors import MMHierError

SUFFIX = '.safetensors'


def read_safetensors(path: Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a safetensors file.

    Args:
        path (Path): Of any origin; metadata of other programs stay texts.
        map_location (Any): Device, as text or as ``torch.device``.
            Defaults to 'cpu'.

    Returns:
        dict: ``state_dict``, and ``meta`` as :func:`write_safetensors` took
        it.

    Raises:
        MMHierError: If safetensors is not installed, or the file is
            damaged.
    """
    safetensors = _import_safetensors(path)
    try:
        with safetensors.safe_open(
                path, framework='pt', device=str(map_location)) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            texts = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise MMHierError(
            f'checkpoint {path} ({path.stat().st_size} bytes) is truncated or'
            f' not a safetensors file: copy or download it again ({error})'
        ) from error
    return dict(
        state_dict=weights,
        meta={
            key: _parse(text)
            for key, text in texts.items()
        })


def pack_safetensors(state_dict: dict[str, Tensor], meta: dict[str,
                                                               Any]) -> bytes:
    """Pack weights as the content of a safetensors file.

    Args:
        state_dict (dict): Weights; tensors that share memory are copied.
        meta (dict): Values other than JSON's become texts.

    Returns:
        bytes: Content of the file.

    Raises:
        MMHierError: If safetensors is not installed.
    """
    _import_safetensors('--safetensors')
    from safetensors.torch import save
    weights = {
        name: value.detach().clone().contiguous()
        for name, value in state_dict.items()
    }
    texts = {key: json.dumps(value, default=str) for key, value in meta.items()}
    return save(weights, metadata=dict(texts, format='pt'))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _import_safetensors(what: str | Path) -> Any:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise MMHierError(f'{what} needs safetensors, which is not '
                          'installed: run pip install safetensors') from error
    return safetensors
