"""Hashes in the names of checkpoint files."""
import re
from pathlib import Path

from mmhier.errors import MMHierError
from mmhier.files import file_sha256

_HASHED = re.compile(r'(?P<stem>.+)-(?P<hash>[0-9a-f]{8})')
# 'model-20260131.pth' carries a date.
_DATE = re.compile(r'20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])')


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
        MMHierError: If they differ.
    """
    expected = hash_in_name(path)
    if expected is None:
        return
    found = file_sha256(path)
    if not found.startswith(expected):
        raise MMHierError(
            f'checkpoint {path} is not what its name says: expected a sha256 '
            f'of {expected}..., found {found[:8]}...: the file is damaged or '
            'was changed, so copy or download it again (or take the hash out '
            'of its name, if the change is meant)')
