"""Files that are written whole or not at all, their names and hashes."""
import hashlib
import os
import os.path as osp
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmhier.errors import MMHierError

# Begins the names of files that are being written.
PARTIAL = '.unfinished.'


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Put a file in place only once all of it is on the disk.

    Args:
        path (str | Path): Replaced when the block ends, left as it is if the
            block fails.

    Yields:
        Path: Where to write: a hidden name beside `path` with its suffix.
    """
    path = Path(path)
    partial = path.with_name(f'{PARTIAL}{os.getpid()}.{path.name}')
    try:
        yield partial
        put_in_place(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put_in_place(finished: Path, path: str | Path) -> None:
    """Rename a finished file of the same folder or disk, once it is stored.

    Args:
        finished (Path): All of the content is written.
        path (str | Path): Replaced.
    """
    with finished.open('rb+') as file:
        os.fsync(file.fileno())
    os.replace(finished, path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, with its own line ends, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8', newline='')


def split_at_marks(text: str, start: str, end: str,
                   page: str | Path) -> tuple[str, str, str]:
    """Split a page at the two marks around a table that a tool writes.

    Args:
        text (str): Text of the page.
        start (str): Mark before the table.
        end (str): Mark behind it.
        page (str | Path): Name of the page, for the message.

    Returns:
        tuple[str, str, str]: Text before the first mark, between the marks,
        and behind the second one.

    Raises:
        MMHierError: If a mark is missing.
    """
    before, start_found, rest = text.partition(start)
    table, end_found, after = rest.partition(end)
    if not start_found or not end_found:
        raise MMHierError(f'{page} lacks the marks of the table: '
                          f'{start.strip()} and {end.strip()}')
    return before, table, after


def replace_at_marks(text: str, start: str, end: str, block: str,
                     page: str | Path) -> str:
    """Text of a page with another block between two marks.

    Args:
        text (str): Text of the page.
        start (str): Mark before the block.
        end (str): Mark after it.
        block (str): Set off from the marks by empty lines.
        page (str | Path): Name of the page, for the message.

    Raises:
        MMHierError: If a mark is missing.
    """
    before, _, after = split_at_marks(text, start, end, page)
    return f'{before}{start}\n{block}\n{end}{after}'


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def missing_files(paths: Iterable[str]) -> list[str]:
    """Files that are not on disk; each folder is listed once.

    Args:
        paths (Iterable[str]): Their folders may be missing too.
    """
    listed = defaultdict(set)
    for path in paths:
        folder, name = osp.split(path)
        listed[folder].add(name)
    missing = []
    for folder, names in listed.items():
        present = os.listdir(folder or '.') if osp.isdir(folder or '.') else ()
        missing += [
            osp.join(folder, n) for n in sorted(names.difference(present))
        ]
    return missing


def distinct_names(files: Sequence[str]) -> dict[str, str]:
    """Name the results of files, without suffix where that is unambiguous.

    Names of files in several folders start below their common folder.

    Args:
        files (Sequence[str]): At least one path.

    Returns:
        dict[str, str]: Distinct names by path.
    """
    root = osp.commonpath([osp.dirname(osp.abspath(f)) for f in files])
    inside = {f: osp.relpath(osp.abspath(f), root) for f in files}
    stems = {f: osp.splitext(name)[0] for f, name in inside.items()}
    count = Counter(stems.values())
    return {
        f: stem if count[stem] == 1 else inside[f]
        for f, stem in stems.items()
    }


def shown(path: str | Path) -> str:
    """A path with the bytes that are not UTF-8 as \\x escapes."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def require_writable(
    name: str,
    path: str | Path,
    overwrite: bool = False,
    suffixes: Sequence[str] = ()) -> None:
    """Check before a long run that a file can be written.

    Args:
        name (str): Option that names the file, such as '--out'.
        path (str | Path): Its folder is created if it is missing.
        overwrite (bool): Whether the file may exist. Defaults to False.
        suffixes (Sequence[str]): Endings of its name, in lower case.
            Defaults to (): any.

    Raises:
        MMHierError: If it has another ending, is a folder, exists, or its
            folder cannot be written to.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise MMHierError(f'{name} {shown(path)} must end with '
                          f'{" or ".join(suffixes)}')
    if path.is_dir():
        raise MMHierError(f'{name} {shown(path)} is a folder: expected the '
                          'name of a file')
    if path.exists() and not overwrite:
        raise MMHierError(
            f'{name} {shown(path)} exists: choose another name, or replace it '
            'with --overwrite')
    make_writable(name, path.parent)


def make_writable(name: str, folder: str | Path) -> None:
    """Create a folder, and check before a long run that it is writable.

    Args:
        name (str): Option that names the folder, such as '--out-dir'.
        folder (str | Path): Created with its parents if it is missing.

    Raises:
        MMHierError: If it cannot be created or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MMHierError(
            f'{name} {shown(folder)} cannot be written to: {error.strerror}; '
            'choose another folder') from error
