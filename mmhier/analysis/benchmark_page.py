"""Tables of a benchmark page, and the CSV files of their rows."""
import csv
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmhier.errors import MMHierError
from mmhier.files import make_writable, write_text

BLOCK = re.compile(r'(<!-- benchmark: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
Row = dict[str, str]
# Forms left out of the tables: values of attn_impl that are slower than auto.
_HIDDEN = ('eager', 'sdpa')


def update_page(path: str,
                names: Sequence[str] | None,
                measure: bool = True) -> None:
    """Run the commands of a page; write their rows and tables.

    Rows go to speed/NAME.csv beside the page after each command, so that an
    interrupted run keeps what it measured.

    Args:
        path (str): Markdown with blocks ``<!-- benchmark: NAME -->``, each
            followed by ``<!-- end -->``. speed/commands.txt beside it has the
            commands of each NAME.
        names (Sequence[str], optional): Names to measure; None for all.
        measure (bool): Run the commands; False only writes the tables of
            the CSV files. Defaults to True.

    Raises:
        MMHierError: If the page has no block, a name no command, or a command
            fails.
    """
    if not os.path.isfile(path):
        raise MMHierError(f'--page {path}: no such file')
    page = Path(path)
    if not BLOCK.search(page.read_text(encoding='utf-8')):
        raise MMHierError(f'--page {path}: no "<!-- benchmark: NAME -->" '
                          'followed by "<!-- end -->" in it')
    commands = read_commands(page)
    for name in names or ():
        if name not in commands:
            raise MMHierError(f'--only {name}: expected one of '
                              f'{", ".join(commands)}')
    make_writable('--page', page.parent / 'speed')
    for name, lines in commands.items():
        if measure and (names is None or name in names):
            _measure_rows(csv_path(page, name), lines)
    write_text(path, render(page))


def read_commands(page: Path) -> dict[str, list[str]]:
    """Commands of speed/commands.txt by name.

    Args:
        page (Path): The page beside ``speed``.

    Returns:
        dict[str, list[str]]: Arguments of ``mmhier benchmark`` by NAME.

    Raises:
        MMHierError: If there is no such file.
    """
    path = page.parent / 'speed' / 'commands.txt'
    if not path.is_file():
        raise MMHierError(f'--page {page}: {path} is missing, which names the '
                          'commands')
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding='utf-8').splitlines():
        name, _, command = line.partition(': ')
        if command:
            found.setdefault(name, []).append(command)
    return found


def csv_path(page: Path, name: str) -> Path:
    """File of the rows of a block."""
    return page.parent / 'speed' / f'{name}.csv'


def render(page: Path) -> str:
    """Text of a page with the tables of its CSV files."""

    def replace(block: re.Match) -> str:
        rows = read_rows(csv_path(page, block[2]))
        return f'{block[1]}\n{table(rows)}\n{block[3]}'

    return BLOCK.sub(replace, page.read_text(encoding='utf-8'))


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file; [] if there is none."""
    if not path.is_file():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file; a column that a row lacks is empty in it."""
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _measure_rows(path: Path, commands: Sequence[str]) -> None:
    """Run each command in its own process; drop the rows of removed commands.

    The memory that earlier passes leave to a process changes the time of
    later ones.
    """
    for command in commands:
        with tempfile.TemporaryDirectory() as folder:
            found = os.path.join(folder, 'rows.csv')
            done = subprocess.run([
                sys.executable, '-m', 'mmhier', 'benchmark',
                *shlex.split(command), '--csv', found
            ])
            if done.returncode:
                raise MMHierError(f'{command} failed')
            new = [dict(command=command, **r) for r in read_rows(Path(found))]
        old = [row for row in read_rows(path) if row['command'] != command]
        write_rows(path, [*old, *new])
    order = {command: i for i, command in enumerate(commands)}
    rows = [row for row in read_rows(path) if row['command'] in order]
    write_rows(path, sorted(rows, key=lambda row: order[row['command']]))


def table(rows: Sequence[Row]) -> str:
    """Markdown table of the times in rows, or of the peaks without times."""
    if not rows:
        return 'Not measured yet.\n'
    if any(row['ms'] for row in rows):
        lines = _times(rows)
    else:
        lines = _peaks(rows)
    text = ['| ' + ' | '.join(line) + ' |' for line in lines]
    text.insert(1, '|' + '---|' * len(lines[0]))
    machines = list(dict.fromkeys(row['machine'] for row in rows))
    text.append(f'\nMeasured on: {machines[0]}.' if len(machines) ==
                1 else '\nMeasured at several commits, which the rows name.')
    return '\n'.join(text) + '\n'


def _by_case(rows: Sequence[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Rows by (model, mode, size), then form; later rows replace earlier."""
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row['form'] not in _HIDDEN:
            case = row['model'], row['mode'], row['size']
            cases.setdefault(case, {})[row['form']] = row
    return cases


def _times(rows: Sequence[Row]) -> list[list[str]]:
    """Times of each form, and speed-ups of the last form over the others."""
    cases = _by_case(rows)
    longest = max(cases.values(), key=len)
    forms = list(longest)
    subject, others = forms[-1], forms[:-1]
    header = ['model', 'pass', 'size', *(f'{form}, ms' for form in forms)]
    header += [f'vs {form}' for form in others]
    has_peaks = any(row['peak MiB'] for row in rows)
    if has_peaks:
        header.append(f'MiB, {" / ".join(forms[-2:])}')
    lines = [header]
    for (model, mode, size), found in cases.items():

        def value(form: str, key: str, found: dict[str, Row] = found) -> str:
            return found[form][key] if form in found else ''

        line = [model, mode, size]
        line += [_shorten(value(form, 'ms')) for form in forms]
        line += [
            f'{float(value(form, "ms")) / float(value(subject, "ms")):.2f}'
            if value(form, 'ms') and value(subject, 'ms') else ''
            for form in others
        ]
        if has_peaks:
            peaks = [value(form, 'peak MiB') or '-' for form in forms[-2:]]
            line.append(' / '.join(peaks) if any(p != '-'
                                                 for p in peaks) else '')
        lines.append(line)
    return lines


def _shorten(number: str) -> str:
    """Drop the tenths of numbers from 100."""
    is_long = number and float(number) >= 100
    return f'{float(number):.0f}' if is_long else number


def _peaks(rows: Sequence[Row]) -> list[list[str]]:
    """Peaks in MiB of each model by size."""
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row['model'], {})[row['size']] = row['peak MiB']
    return [['peak MiB', *sizes],
            *([model, *(peaks.get(size, '') for size in sizes)]
              for model, peaks in found.items())]
