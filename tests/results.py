"""``--record LANE``: publish the outcome of a lane of tests.

README.md gets a row of its table of tested versions; the zoo lane also writes
its tests and their durations to tests/zoo_results.md.
"""
import os
import platform
import subprocess
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmhier.files import replace_at_marks, split_at_marks

ROOT = Path(__file__).parents[1]
START = '<!-- Written by pytest --record. -->\n'
END = '<!-- End of the records. -->\n'
HEADER = ('lane', 'Python', 'torch', 'OpenMMLab', 'numpy', 'outcome',
          'CPU minutes', 'commit', 'date')
# Cells that identify a row.
NUM_KEYS = 4
OUTCOMES = ('passed', 'failed', 'error', 'skipped', 'xfailed')


def add_option(parser) -> None:
    parser.addoption(
        '--record',
        metavar='LANE',
        help='write the outcome to README.md under this name')


def record(reporter, config) -> None:
    """Write the outcome of a session with ``--record``."""
    lane = config.getoption('record')
    if lane is None:
        return
    row = lane_row(f'`make {lane}`', reporter.stats)
    page = ROOT / 'README.md'
    page.write_text(add_row(page.read_text(), row))
    if lane == 'test-zoo':
        (ROOT / 'tests/zoo_results.md').write_text(
            zoo_page(row, durations(reporter.stats)))


def durations(stats: dict) -> dict[str, tuple[float, str]]:
    """Seconds, setup and teardown included, and outcome of each test."""
    found: dict[str, tuple[float, str]] = {}
    for reports in stats.values():
        for report in reports:
            if hasattr(report, 'duration') and hasattr(report, 'when'):
                seconds, outcome = found.get(report.nodeid, (0., 'passed'))
                if report.outcome != 'passed':
                    outcome = report.outcome
                found[report.nodeid] = seconds + report.duration, outcome
    return found


def lane_row(lane: str, stats: dict) -> tuple[str, ...]:
    """Cells of a row, as HEADER names them."""
    counts = Counter({key: len(stats.get(key, ())) for key in OUTCOMES})
    # User and system time of this process and of its ended children: the
    # workers, and what they started. Unlike durations, other programs on the
    # machine hardly change it.
    seconds = sum(os.times()[:4])
    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--abbrev=8', '--exclude=*'],
        cwd=ROOT,
        capture_output=True,
        text=True).stdout.strip()
    return (lane, platform.python_version(), version('torch').split('+')[0],
            openmmlab_line(), version('numpy'),
            ', '.join(f'{count} {key}' for key, count in counts.items()
                      if count), f'{seconds / 60:.0f}', commit,
            time.strftime('%Y-%m-%d'))


def openmmlab_line() -> str:
    """Line and version of mmdet; empty without OpenMMLab."""
    for line, name in (('maintained', 'onedl-mmdetection'), ('original',
                                                             'mmdet')):
        try:
            return f'{line}, mmdet {version(name)}'
        except PackageNotFoundError:
            continue
    return ''


def read_rows(text: str) -> dict[tuple, tuple]:
    """Rows of README's table by the cells that identify them."""
    _, table, _ = split_at_marks(text, START, END, 'README.md')
    rows = (tuple(line.strip('| ').split(' | ')) for line in table.splitlines())
    return {
        row[:NUM_KEYS]: row
        for row in rows
        if len(row) == len(HEADER) and row != HEADER and row[0] != '---'
    }


def add_row(text: str, row: tuple[str, ...]) -> str:
    """README.md with a row in place of its earlier one."""
    rows = read_rows(text) | {row[:NUM_KEYS]: row}
    body = table(rows[key] for key in sorted(rows))
    return replace_at_marks(text, START, END, body, 'README.md')


def table(rows) -> str:
    lines = [HEADER, ('---', ) * len(HEADER), *rows]
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)


def zoo_page(row: tuple[str, ...], found: dict[str, tuple[float, str]]) -> str:
    """Markdown of a run of the zoo lane."""
    dearest = sorted(found.items(), key=lambda item: -item[1][0])
    tests = ''.join(f'| `{name}` | {outcome} | {seconds:.1f} |\n'
                    for name, (seconds, outcome) in dearest)
    return (f'# The zoo lane\n\nWritten by `make test-zoo RECORD=1` on '
            f'{platform.machine()}.\n\n{table([row])}\n'
            f'| test | outcome | seconds |\n| --- | --- | --- |\n{tests}')
