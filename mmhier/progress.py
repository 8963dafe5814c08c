"""Progress bars of long commands."""
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')


def track(items: Iterable[T],
          description: str,
          total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on stderr.

    It shows the count, the elapsed and the remaining time, and goes when the
    loop ends. Nothing is printed where stderr is no terminal, nor by processes
    other than the first.

    Args:
        items (Iterable): What to iterate over.
        description (str): Such as 'Reading labels'.
        total (int, optional): Number of items. Defaults to None, ``len(items)``
            where it has one.

    Yields:
        Any: The items.
    """
    # Without a terminal, neither bar nor import.
    if not sys.stderr.isatty():
        yield from items
        return
    from mmengine.dist import is_main_process
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    with Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn('eta'),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not is_main_process()) as progress:
        yield from progress.track(items, total=total, description=description)
