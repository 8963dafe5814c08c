"""Files that are written whole or not at all, and their hashes."""
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
