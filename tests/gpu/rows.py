"""Rows of the results of the checks on a GPU."""
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Rows:
    """Findings of a part.

    Args:
        part (str): Its name.
        device (str): 'cuda', or 'cpu' in a dry run.
        is_dry (bool): Whether small models and images do.
        save (Callable): Called with all rows after each.

    Attributes:
        rows (list[dict]): Each holds `part`, `what`, `ok` (None for a
            measurement) and facts.
    """

    def __init__(self, part: str, device: str, is_dry: bool,
                 save: Callable[[list[dict]], None]):
        self.part = part
        self.device = device
        self.is_dry = is_dry
        self.save = save
        self.rows: list[dict] = []

    def add(self, what: str, ok: bool | None, **facts: Any) -> None:
        """Append a finding."""
        for key, value in facts.items():
            if isinstance(value, float):
                facts[key] = float(f'{value:.5g}')
        row = dict(part=self.part, what=what, ok=ok, **facts)
        self.rows.append(row)
        self.save(self.rows)
        print(row, flush=True)

    @contextmanager
    def case(self, what: str) -> Iterator[None]:
        """Turn an error within into a failed row."""
        try:
            yield
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            message = ' '.join(str(error).split())[:300]
            self.add(
                what,
                False,
                error=f'{type(error).__name__}: {message}',
                where=f'{Path(frame.filename).name}:{frame.lineno}')


def as_markdown(rows: list[dict], summary: str) -> str:
    """A table for each part."""
    lines = ['# mmhier on a GPU', '', summary, '']
    for part in dict.fromkeys(row['part'] for row in rows):
        own = [row for row in rows if row['part'] == part]
        failed = sum(row['ok'] is False for row in own)
        keys = list(
            dict.fromkeys(
                k for row in own for k in row if k not in ('part', 'ok')))
        lines += [f'## {part}: {len(own)} rows, {failed} failed', '']
        lines.append(f'| ok | {" | ".join(keys)} |')
        lines.append('|---' * (len(keys) + 1) + '|')
        marks = {True: 'yes', False: '**no**', None: ''}
        for row in own:
            cells = (' '.join(str(row.get(k, '')).split()).replace('|', '/')
                     for k in keys)
            lines.append(f'| {marks[row["ok"]]} | {" | ".join(cells)} |')
        lines.append('')
    return '\n'.join(lines)
