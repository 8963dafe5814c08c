"""Files that are written whole or not at all."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Put a file in place only once all of it is written.

    Args:
        path (str | Path): Replaced when the block ends, left as it is if the
            block fails.

    Yields:
        Path: Where to write: a hidden name beside `path` with its suffix.
    """
    path = Path(path)
    partial = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, with its own line ends, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8', newline='')
