"""Submission packages: problem lists, untrusted zip files, atomic outputs."""
import shutil
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmhier.errors import MMHierError
from mmhier.files import put_in_place, require_writable
from mmhier.leaderboard.locks import drop_lock, take_lock

_MEBIBYTE = 1024**2
# Above the 20,288 images of test-dev with 100 masks each.
_MAX_BYTES = 4096 * _MEBIBYTE
# Above the compression of real text and label maps.
_MAX_RATIO = 200
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError,
            ValueError, NotImplementedError, OverflowError, RuntimeError)


@dataclass
class PackageSummary:
    """Content of a valid package.

    Attributes:
        path (str): The package.
        kind (str): 'bbox', 'segm' or 'labels'.
        num_images (int): Number of images with results.
        num_results (int): Detections or label maps.
        notes (list[str]): Results left out, checks not possible, and legal
            but unusual content.
    """
    path: str
    kind: str
    num_images: int
    num_results: int
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return '\n'.join([
            f'{self.path} is valid: {self.kind}, {self.num_results} results '
            f'in {self.num_images} images'
        ] + [f'  note: {note}' for note in self.notes])


class Problems:
    """Problems by kind, with counts and the first examples.

    Args:
        name (str | Path): Name of the package, for the message.
    """
    _NUM_EXAMPLES = 3

    def __init__(self, name: str | Path):
        self.name = name
        self._counts: dict[str, int] = defaultdict(int)
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str = '', count: int = 1) -> None:
        """Add one problem, or several with a common example."""
        self._counts[kind] += count
        if example and len(self._examples[kind]) < self._NUM_EXAMPLES:
            # File names may hold control sequences for terminals.
            self._examples[kind].append(''.join(c if c.isprintable() else '?'
                                                for c in example))

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return '\n'.join(f'  - {line}' for line in self.lines())

    def lines(self) -> list[str]:
        """'KIND: 12, such as EXAMPLE; EXAMPLE' for each kind."""
        lines = []
        for kind, count in self._counts.items():
            examples = '; '.join(self._examples[kind])
            if count > 1:
                such_as = f', such as {examples}' if examples else ''
                lines.append(f'{kind}: {count}{such_as}')
            else:
                lines.append(f'{kind}: {examples}' if examples else kind)
        return lines

    def raise_if_any(self) -> None:
        """Raise MMHierError that lists all problems, if there are any."""
        if self:
            raise MMHierError(f'{self.name} cannot be submitted:\n{self}')


def open_package(path: str | Path) -> zipfile.ZipFile:
    """Open a zip file for reading.

    Args:
        path (str | Path): The package.

    Returns:
        zipfile.ZipFile: To be closed by the caller.

    Raises:
        MMHierError: If the file is missing or not a complete zip file.
    """
    path = Path(path)
    if not path.is_file():
        raise MMHierError(f'package {path} does not exist')
    try:
        return zipfile.ZipFile(path)
    except _BAD_ZIP as error:
        with path.open('rb') as file:
            begins_as_zip = file.read(4) == b'PK\x03\x04'
        reason = ('the zip file is truncated or damaged: its list of contents '
                  'is missing' if begins_as_zip else
                  f'it is not a zip file, but servers take nothing else '
                  f'({path.stat().st_size} bytes)')
        raise MMHierError(
            f'{path} cannot be submitted:\n  - {reason}') from error


def list_entries(archive: zipfile.ZipFile,
                 suffix: str,
                 problems: Problems,
                 max_bytes: int | None = None) -> list[zipfile.ZipInfo]:
    """List the readable files of a package, and check its layout.

    Args:
        archive (zipfile.ZipFile): The package.
        suffix (str): Required suffix of its files, such as '.png'.
        problems (Problems): Extended by problems of the layout.
        max_bytes (int, optional): Maximum size of all files together,
            unpacked. Defaults to None, 4 GiB.

    Returns:
        list[zipfile.ZipInfo]: Readable files with that suffix, misplaced ones
        included; empty if the package is too large.
    """
    max_bytes = _MAX_BYTES if max_bytes is None else max_bytes
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        reason = _reason_to_skip(info, suffix)
        if not reason and name in entries:
            reason = 'files that are there twice'
        if reason:
            problems.add(reason, name)
            continue
        entries[name] = info
        if len(_path_of(info).parts) > 1:
            problems.add(
                'files inside of folders (wrong zip layout: all '
                'files belong at the top level, zip with "zip -j")', name)
    total = sum(info.file_size for info in entries.values())
    if total > max_bytes:
        problems.add('the package is too large',
                     f'{total} bytes unpacked, at most {max_bytes} are read')
        return []
    return list(entries.values())


def _path_of(info: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(info.filename.replace('\\', '/'))


def _reason_to_skip(info: zipfile.ZipInfo, suffix: str) -> str:
    """Problem of a file that must not be read; '' without one."""
    path = _path_of(info)
    is_bomb = (
        info.file_size > 16 * _MEBIBYTE
        and info.file_size > _MAX_RATIO * max(info.compress_size, 1))
    checks = (
        (path.is_absolute() or '..' in path.parts
         or ':' in info.filename, 'names that point outside of the package'),
        ('__MACOSX' in path.parts or path.name in ('.DS_Store', 'Thumbs.db'),
         'files that an operating system added (zip with "zip -X", on a Mac '
         'not in the Finder)'),
        (info.is_dir(), 'folders (wrong zip layout: all files belong at the '
         'top level)'),
        (path.suffix != suffix, f'files that are no {suffix}'),
        (info.flag_bits & 1, 'encrypted files'),
        (info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
         'files in an unusual compression (use deflate)'),
        (is_bomb, 'files that unpack to more than real results would'),
    )
    return next((reason for applies, reason in checks if applies), '')


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo,
               problems: Problems) -> bytes | None:
    """Read a file of a package; None, and a problem, if it is damaged."""
    try:
        return archive.read(info)
    except _BAD_ZIP as error:
        problems.add('files that are truncated or damaged in the zip file',
                     f'{info.filename} ({error})')
        return None


def staging_path(target: str | Path) -> Path:
    """Folder of :func:`staging_folder`."""
    target = Path(target)
    return target.with_name(f'.{target.name}.unfinished')


@contextmanager
def staging_folder(target: str | Path) -> Iterator[Path]:
    """Make an empty folder for intermediate files, and remove it at the end.

    If a killed process left the folder behind, its content is removed first.

    Args:
        target (str | Path): Named after; its parent is created if missing.

    Yields:
        Path: The folder.

    Raises:
        MMHierError: If another process uses the folder, or it cannot be
            created.
    """
    target = Path(target)
    folder = staging_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, which may be removed under its lock.
        lock = take_lock(target.with_name(f'.{target.name}.lock'))
    except OSError as error:
        raise MMHierError(f'cannot write {target}: {error.strerror}; choose '
                          'another folder') from error
    if lock is None:
        raise MMHierError(f'{target} is being written by another process: '
                          'wait for it, or end it')
    try:
        if folder.exists():
            print(f'removed {folder}, which an interrupted run left behind; '
                  'starting anew')
            shutil.rmtree(folder)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        drop_lock(lock)


@contextmanager
def new_package(path: str | Path, overwrite: bool) -> Iterator[Path]:
    """Put a package in place once the block has written and checked it.

    Args:
        path (str | Path): The package; its folder is created if missing.
        overwrite (bool): Replace a package.

    Yields:
        Path: File to write, of the same name in a :func:`staging_folder`.

    Raises:
        MMHierError: If the package exists, cannot be written or is being
            written by another process.
    """
    path = Path(path)
    require_writable('package', path, overwrite)
    with staging_folder(path) as folder:
        staged = folder / path.name
        yield staged
        put_in_place(staged, path)
