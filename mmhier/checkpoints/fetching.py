"""Download files: resumed after an interruption, checked for length."""
import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import DownloadColumn, TransferSpeedColumn
from mmhier.errors import MMHierError
from mmhier.progress import progress_bar
from mmhier.version import __version__

# Seconds without an answer.
TIMEOUT = 30.
_BLOCK = 1 << 18
_CUT = (http.client.HTTPException, ConnectionError, TimeoutError)


class UnreachableError(MMHierError):
    """A server that cannot be reached or refuses a file, and why."""


def remote_size(url: str, timeout: float = TIMEOUT) -> int | None:
    """Ask a server for the size of a file.

    Args:
        url (str): http, https or file.
        timeout (float): Seconds to wait for an answer. Defaults to
            ``TIMEOUT``.

    Returns:
        int | None: Bytes; None if the server does not tell.

    Raises:
        UnreachableError: If there is no such file or no answer.
    """
    with _open(_request(url, 'HEAD'), timeout) as response:
        return _length(response)


def download(url: str, partial: Path) -> None:
    """Download a file, going on where an earlier attempt ended.

    A connection that is cut is opened again for as long as bytes arrive.
    Only a server that states an ETag or a date is asked for the rest of a
    file; from others, it comes from the start.

    Args:
        url (str): http, https or file.
        partial (Path): Where to write. It stays after a failure, with the
            server's ETag or date in ``PARTIAL.version``.

    Raises:
        UnreachableError: If the server cannot be reached, refuses the file,
            sends a web page in its place, or ends early.
        MMHierError: If the file cannot be written or does not fit on the
            disk.
    """
    version = partial.with_name(f'{partial.name}.version')
    while True:
        before = _size(partial)
        try:
            _receive(url, partial, version)
            break
        except _CUT as error:
            if _size(partial) <= before:
                raise UnreachableError(
                    f'{url}: the connection was cut after {_size(partial)} '
                    f'bytes ({type(error).__name__})') from error
    version.unlink(missing_ok=True)


def _receive(url: str, partial: Path, version: Path) -> None:
    """Append the missing part of a file."""
    request = _request(url)
    start = _size(partial) if version.is_file() else 0
    if start:
        request.add_header('Range', f'bytes={start}-')
        request.add_header('If-Range', version.read_text(encoding='utf-8'))
    with _open(request) as response:
        if response.headers.get_content_type() == 'text/html':
            raise UnreachableError(
                f'{url}: the server sent a web page (text/html) in place of '
                'the file, as sign-in pages of networks do')
        if response.status != 206:
            start = 0
        length = _length(response)
        free = shutil.disk_usage(partial.parent).free
        if length is not None and length > free:
            raise MMHierError(
                f'{url} needs {length / 1e6:.0f} MB, and {partial.parent} has '
                f'{free / 1e6:.0f} MB left: make room there, or point '
                'XDG_CACHE_HOME at another disk')
        try:
            with open(partial, 'ab' if start else 'wb', buffering=0) as file:
                _note_version(response, version)
                received = _copy(response, file, start, length)
        except OSError as error:
            if isinstance(error, _CUT):
                raise
            raise MMHierError(
                f'cannot write {partial}: {error.strerror}') from error
    if length is not None and received < length:
        raise ConnectionResetError


def _copy(response: Any, file: BinaryIO, start: int, length: int | None) -> int:
    """Copy a body under a progress bar; return the number of its bytes."""
    received = 0
    name = Path(file.name).name.removesuffix('.part')
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(
            name,
            total=None if length is None else start + length,
            completed=start)
        while block := response.read(_BLOCK):
            received += len(block)
            progress.update(task, advance=len(block))
            while block:
                block = block[file.write(block):]
    return received


def _note_version(response: Any, version: Path) -> None:
    """Note the strong ETag or the date of a server's file."""
    tag = response.headers.get('ETag', '')
    if tag.startswith('W/'):
        tag = ''
    tag = tag or response.headers.get('Last-Modified', '')
    if tag:
        version.write_text(tag, encoding='utf-8')
    else:
        version.unlink(missing_ok=True)


def _request(url: str, method: str = 'GET') -> urllib.request.Request:
    return urllib.request.Request(
        url, headers={'User-Agent': f'mmhier/{__version__}'}, method=method)


def _open(request: urllib.request.Request, timeout: float = TIMEOUT) -> Any:
    url = request.full_url
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and request.has_header('Range'):
            # The partial file holds everything, or more.
            request.remove_header('Range')
            return _open(request, timeout)
        raise UnreachableError(
            f'{url}: the server answered {error.code} {error.reason}'
        ) from error
    except urllib.error.URLError as error:
        raise UnreachableError(f'{url}: {error.reason}') from error
    except (*_CUT, OSError) as error:
        raise UnreachableError(f'{url}: {error}') from error


def _length(response: Any) -> int | None:
    length = response.headers.get('Content-Length')
    return None if length is None else int(length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
