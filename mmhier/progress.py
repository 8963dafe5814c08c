"""Progress bars of long commands."""
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar('T')


def progress_bar(*columns: 'ProgressColumn') -> 'Progress':
    """Progress on stderr with elapsed and remaining time.

    Nothing is printed if stderr is not a terminal. The bar disappears at the
    end of its ``with`` block.

    Args:
        *columns (ProgressColumn): Columns of rich behind the bar.

    Returns:
        Progress: Of rich, to be entered.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        TextColumn('eta'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty())


def track(items: Iterable[T],
          description: str,
          total: int | None = None) -> Iterator[T]:
    """Iterate under a progress bar; see :func:`progress_bar`.

    Args:
        items (Iterable): Of any type.
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
    from rich.progress import MofNCompleteColumn
    with progress_bar(MofNCompleteColumn()) as progress:
        yield from progress.track(items, total=total, description=description)
