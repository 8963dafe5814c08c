"""Names of checkpoint files: a hash in them, and a folder to find them in."""
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from mmhier.errors import MMHierError
from mmhier.files import file_sha256

_HASHED = re.compile(r'(?P<stem>.+)-(?P<hash>[0-9a-f]{8})')
# 'model-20260131.pth' carries a date.
_DATE = re.compile(r'20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])')


class CheckpointError(MMHierError):
    """A checkpoint file that cannot be used, and why."""


def hash_in_name(path: str | Path) -> str | None:
    """'1a2b3c4d' for ``model-1a2b3c4d.pth``; None for names without a hash."""
    match = _HASHED.fullmatch(Path(path).stem)
    if match is None or _DATE.fullmatch(match['hash']):
        return None
    return match['hash']


def name_with_hash(path: str | Path, sha256: str) -> Path:
    """``model-1a2b3c4d.pth`` for ``model.pth``, in place of an older hash."""
    path = Path(path)
    stem = path.stem
    match = _HASHED.fullmatch(stem)
    if match is not None and hash_in_name(path) is not None:
        stem = match['stem']
    return path.with_name(f'{stem}-{sha256[:8]}{path.suffix}')


def verify_name(path: str | Path) -> None:
    """Compare a file with the hash in its name, if there is one.

    Args:
        path (str | Path): An existing file.

    Raises:
        CheckpointError: If they differ.
    """
    expected = hash_in_name(path)
    if expected is None:
        return
    found = file_sha256(path)
    if not found.startswith(expected):
        raise CheckpointError(
            f'checkpoint {path} is not what its name says: expected a sha256 '
            f'of {expected}..., found {found[:8]}...: the file is damaged or '
            'was changed, so copy or download it again (or take the hash out '
            'of its name, if the change is meant)')


def find_checkpoint(source: str | Path) -> str:
    """Path of a checkpoint, looked for in ``MMHIER_WEIGHTS`` as well.

    A path that exists is taken as it is. Otherwise the folder that the
    environment variable ``MMHIER_WEIGHTS`` names is searched for a file of
    the same name, with a hash ('model-1a2b3c4d.pth' for 'model.pth') or
    without.

    Args:
        source (str | Path): A file name, a path or a URL.

    Returns:
        str: An existing file, or the URL if the folder has no such file.

    Raises:
        CheckpointError: If there is no such file, or there are several.
    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return str(path)
    is_url = '://' in str(source)
    folder = os.environ.get('MMHIER_WEIGHTS')
    if folder:
        name = Path(urlsplit(str(source)).path if is_url else path).name
        found = _find_in_folder(Path(os.path.expanduser(folder)), name)
        if found is not None:
            return str(found)
    if is_url:
        return str(source)
    where = f', nor is it in MMHIER_WEIGHTS={folder}' if folder else ''
    raise CheckpointError(f'checkpoint {source} does not exist{where}')


def _find_in_folder(folder: Path, name: str) -> Path | None:
    """File of a folder that has this name, up to a hash."""
    if not folder.is_dir():
        raise CheckpointError(
            f'checkpoint {name} does not exist, and MMHIER_WEIGHTS={folder} '
            'is not a folder: point it at the folder that holds your '
            'checkpoints, or unset it')
    if (folder / name).is_file():
        return folder / name
    wanted = Path(name)
    found = [
        path for path in sorted(folder.iterdir())
        if path.suffix == wanted.suffix and hash_in_name(path) is not None
        and path.stem[:-9] == wanted.stem and path.is_file()
    ]
    if len(found) > 1:
        names = ' and '.join(path.name for path in found)
        raise CheckpointError(f'{name} is ambiguous in MMHIER_WEIGHTS='
                              f'{folder}: name one of {names}')
    return found[0] if found else None
