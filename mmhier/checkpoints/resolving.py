"""From the name of a checkpoint to a file: folder, cache, network.

A cached file lies beside ``FILE.json``, the record of its first fetch, which
every later use and every later fetch is compared with.
"""
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from mmhier.errors import MMHierError
from mmhier.files import file_sha256, write_text
from .fetching import UnreachableError, download
from .naming import hash_in_name
from .official import OfficialWeights, find_official, official_weights

_HTTP = ('http://', 'https://')


def resolve_checkpoint(source: str | Path) -> str:
    """Path of a checkpoint that is given by path, name or URL.

    A path that exists is taken as it is. Everything else is looked for by
    its file name, with a hash ('model-1a2b3c4d.pth' for 'model.pth') or
    without, in the folder ``MMHIER_WEIGHTS``; then in the cache,
    ``XDG_CACHE_HOME/mmhier`` or ``~/.cache/mmhier``; then it is downloaded
    into the cache, once for all processes. ``MMHIER_WEIGHTS_URL``, a folder
    or a base URL that serves the authors' files side by side, takes the
    place of the authors' servers.

    Args:
        source (str | Path): A path; a name of official weights such as
            'hatnet-tiny_in1k'; or a URL.

    Returns:
        str: An existing file, or `source` if it is a URL of another scheme
        than http and https and not in the folder.

    Raises:
        MMHierError: If there is no such file or several, the server
            cannot be reached, or the file does not match its name, its
            record or the table of official weights.
    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        return str(path)
    source = str(source)
    weights = find_official(source)
    found = _find_in_weights_folder(source, weights)
    if found is not None:
        verify_record(found)
        return str(found)
    if weights is not None:
        return str(fetch(weights.url, cache_path(weights.url), weights))
    if source.startswith(_HTTP):
        return str(fetch(source, cache_path(source)))
    if '://' in source:
        return source
    folder = os.environ.get('MMHIER_WEIGHTS')
    where = f', nor is it in MMHIER_WEIGHTS={folder}' if folder else ''
    similar = get_close_matches(source, official_weights(), n=1)
    hint = f'; did you mean {similar[0]}?' if similar else ''
    raise MMHierError(f'checkpoint {source} does not exist{where}{hint}')


def cache_folder() -> Path:
    """Folder for downloaded checkpoints."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmhier'


def cache_path(url: str) -> Path:
    """Place of a URL in the cache: official files side by side."""
    if find_official(url) is not None:
        return cache_folder() / url.rpartition('/')[2]
    parts = urlsplit(url)
    return cache_folder() / parts.netloc.replace(':',
                                                 '_') / parts.path.strip('/')


def source_url(weights: OfficialWeights) -> str:
    """URL that a file is downloaded from, in ``MMHIER_WEIGHTS_URL`` if set."""
    mirror = os.environ.get('MMHIER_WEIGHTS_URL')
    if not mirror:
        return weights.url
    if '://' not in mirror:
        mirror = Path(mirror).expanduser().absolute().as_uri()
    return f'{mirror.rstrip("/")}/{weights.file_name}'


def find_local(weights: OfficialWeights) -> Path | None:
    """File of official weights in the folder or the cache, if there is one."""
    found = _find_in_weights_folder(weights.name, weights)
    if found is None and cache_path(weights.url).is_file():
        found = cache_path(weights.url)
    return found


def fetch(url: str,
          target: Path,
          weights: OfficialWeights | None = None) -> Path:
    """Download a file unless it is there, once for all processes.

    A file that was put there by hand is proven and recorded as a downloaded
    one is.

    Args:
        url (str): http or https.
        target (Path): Where the file goes.
        weights (OfficialWeights, optional): Expected content.
            Defaults to None, any checkpoint.

    Returns:
        Path: ``target``.

    Raises:
        MMHierError: See :func:`resolve_checkpoint`.
    """
    if target.is_file() and verify_record(target):
        return target
    if target.is_file() and not os.access(target.parent, os.W_OK):
        _prove(target, weights)
        return target
    with _locked(target):
        if not target.is_file():
            _download(url, target, weights)
        elif not verify_record(target):
            _prove(target, weights)
            _write_record(target, url, file_sha256(target))
    return target


def verify_record(path: Path) -> bool:
    """Compare a file with the record of its first fetch.

    Args:
        path (Path): An existing file.

    Returns:
        bool: Whether there is a record.

    Raises:
        MMHierError: If they differ.
    """
    record = _read_record(path)
    if record is None:
        return False
    stat = path.stat()
    found = _sha256(path, stat.st_mtime_ns, stat.st_size)
    if found != record['sha256']:
        raise MMHierError(
            f'checkpoint {path} was changed since {record["fetched"]}, when '
            f'it was fetched: expected a sha256 of {record["sha256"][:8]}..., '
            f'found {found[:8]}...: remove it to fetch it again')
    return True


def _download(url: str, target: Path, weights: OfficialWeights | None) -> None:
    """Download, prove, record and place a file, in this order."""
    served = url if weights is None else source_url(weights)
    partial = target.with_name(f'{target.name}.part')
    try:
        download(served, partial)
    except UnreachableError as error:
        folder = os.environ.get('MMHIER_WEIGHTS') or target.parent
        raise UnreachableError(
            f'{weights.name if weights else "checkpoint"} cannot be fetched '
            f'({error}): run `curl -LO {url}` where there is a network and '
            f'put {target.name} into {folder}') from error
    try:
        sha256 = file_sha256(partial)
        record = _read_record(target)
        if record is not None and record['sha256'] != sha256:
            raise MMHierError(
                f'{served} is not the file that was fetched first, on '
                f'{record["fetched"]}: its sha256 was {record["sha256"][:8]}'
                f'... and is {sha256[:8]}.... If that is meant, remove '
                f'{_record_path(target)} and fetch it again')
        try:
            _prove(partial, weights)
        except MMHierError as error:
            raise MMHierError(f'{served}: {error}') from error
        _write_record(target, served, sha256)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _prove(path: Path, weights: OfficialWeights | None) -> None:
    # They need the models, which need the reading of checkpoints.
    from .proving import prove_official
    from .reading import read_checkpoint
    if weights is None:
        read_checkpoint(path)
    else:
        prove_official(path, weights)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time write a file of the cache."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f'{target.name}.lock'))
        lock.acquire()
    except OSError as error:
        raise MMHierError(
            f'cannot write to {target.parent}: {error.strerror}. Point '
            'XDG_CACHE_HOME at a folder that can be written to, or '
            f'MMHIER_WEIGHTS at one that holds {target.name}') from error
    try:
        yield
    finally:
        lock.release()


@lru_cache
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    """Hash of a file in this state."""
    return file_sha256(path)


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _read_record(path: Path) -> dict[str, Any] | None:
    record = _record_path(path)
    if not record.is_file():
        return None
    try:
        content = json.loads(record.read_text(encoding='utf-8'))
        return dict(sha256=content['sha256'], fetched=content['fetched'])
    except (ValueError, KeyError, TypeError) as error:
        raise MMHierError(
            f'{record} is not the record of a checkpoint: remove it and '
            f'{path.name} to fetch it again') from error


def _write_record(path: Path, url: str, sha256: str) -> None:
    fetched = datetime.now(timezone.utc).date().isoformat()
    record = dict(url=url, sha256=sha256, fetched=fetched)
    write_text(_record_path(path), json.dumps(record, indent=1) + '\n')


def _find_in_weights_folder(source: str,
                            weights: OfficialWeights | None) -> Path | None:
    """File of ``MMHIER_WEIGHTS`` that a path, a name or a URL stands for."""
    folder = os.environ.get('MMHIER_WEIGHTS')
    if not folder:
        return None
    name = Path(urlsplit(source).path if '://' in source else source).name
    names = [name]
    if weights is not None:
        names = [
            weights.file_name, f'{weights.name}.pth',
            f'{weights.name}.safetensors'
        ]
    for name in names:
        found = _find_in_folder(Path(os.path.expanduser(folder)), name)
        if found is not None:
            return found
    return None


def _find_in_folder(folder: Path, name: str) -> Path | None:
    """File of a folder that has this name, up to a hash."""
    if not folder.is_dir():
        raise MMHierError(
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
        raise MMHierError(f'{name} is ambiguous in MMHIER_WEIGHTS='
                          f'{folder}: name one of {names}')
    return found[0] if found else None
