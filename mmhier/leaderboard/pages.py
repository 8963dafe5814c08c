"""A leaderboard as Markdown, CSV and a self-contained HTML page.

Values of records are untrusted, and escaped.
"""
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mmhier.errors import MMHierError
from mmhier.files import write_text
from mmhier.leaderboard.records import CostRecord, DataRecord
from mmhier.leaderboard.tables import (
    MAIN_METRICS,
    METRICS,
    Curve,
    Leaderboard,
    Run,
    Table,
)

TASK_TITLES = dict(
    detection='Detection and instance segmentation',
    segmentation='Semantic segmentation',
    classification='Classification')
NONE = '–'
REASONS = 'Not comparable because'
MAX_CURVE_POINTS = 240


def write_leaderboard(board: Leaderboard,
                      folder: str | Path,
                      overwrite: bool = False) -> list[Path]:
    """Write leaderboard.md, .csv and .html.

    Args:
        board (Leaderboard): The tables.
        folder (str | Path): Created if missing.
        overwrite (bool): Replace existing files. Defaults to False.

    Returns:
        list[Path]: The files.

    Raises:
        MMHierError: If one of the files exists, or the folder cannot be
            written to.
    """
    folder = Path(folder)
    texts = {
        folder / 'leaderboard.md': as_markdown(board),
        folder / 'leaderboard.csv': as_csv(board),
        folder / 'leaderboard.html': as_html(board)
    }
    present = [str(path) for path in texts if path.exists()]
    if present and not overwrite:
        raise MMHierError(f'{", ".join(present)} exist: choose another folder '
                          'with --out, or replace them with --overwrite')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_text(path, text)
    except OSError as error:
        raise MMHierError(f'{folder} cannot be written to: {error.strerror}; '
                          'choose another folder with --out') from error
    return list(texts)


def as_markdown(board: Leaderboard) -> str:
    """Tables of a leaderboard in Markdown."""
    parts = ['# Leaderboard\n']
    for task, tables in _by_task(board):
        parts.append(f'## {TASK_TITLES.get(task, _markdown(task))}\n')
        for table in tables:
            parts.append(f'### {_heading(table)}: {_markdown(table.title)}\n')
            names = _metric_names(table)
            last = 'Difference' if table.comparable else REASONS
            header = [
                'Config', 'Family', 'Variant', 'Head', 'Schedule', *names,
                'Published', last, 'Params (M)', 'FLOPs (G)', 'Images/s',
                'Memory (MiB)', 'Hardware', 'Seed', 'Checkpoint', 'Data'
            ]
            rows = [header, ['---'] * len(header)]
            rows += [_markdown_row(run, names, table) for run in table.runs]
            parts += ['| ' + ' | '.join(row) + ' |' for row in rows]
            parts.append('')
    if board.warnings:
        parts.append(f'## {len(board.warnings)} files were left out\n')
        parts += [f'- {_markdown(warning)}' for warning in board.warnings]
        parts.append('')
    return '\n'.join(parts)


def _markdown_row(run: Run, names: Sequence[str], table: Table) -> list[str]:
    record = run.record
    cells = [
        run.name, run.family, record.model.variant, record.model.head,
        record.model.schedule,
        *(_number(run.metrics.get(name)) for name in names)
    ]
    cells += [
        _published(run),
        _differences(run) if table.comparable else '; '.join(run.reasons),
        _number(record.model.params / 1e6, 2),
        _flops(run),
        _number(record.cost.images_per_second,
                2), f'{_mebibytes(record.cost)} ({record.cost.memory_of})',
        _hardware(run),
        _seed(run),
        _short(record.checkpoint.sha256),
        '; '.join(f'{data.split} {data.num_images} '
                  f'{_short(data.images_sha256)}' for data in record.data)
    ]
    return [_markdown(cell) for cell in cells]


def as_csv(board: Leaderboard) -> str:
    """All runs in one table, metrics in per cent."""
    columns = [name for names in METRICS.values() for name in names]
    mains = [name for names in MAIN_METRICS.values() for name in names]
    rows = []
    for table in board.tables:
        for run in table.runs:
            rows.append(_csv_row(run, table, columns, mains))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_cell(cell) for key, cell in row.items()})
    return text.getvalue()


def _csv_row(run: Run, table: Table, columns: Sequence[str],
             mains: Sequence[str]) -> dict[str, Any]:
    record, model = run.record, run.record.model
    size = model.macs_size
    row: dict[str, Any] = dict(
        task=record.task,
        evaluated_on=table.title,
        comparable='yes' if table.comparable else 'no',
        not_comparable_because='; '.join(run.reasons),
        config=run.name,
        family=run.family,
        variant=model.variant,
        head=model.head,
        schedule=model.schedule,
        checkpoint=record.checkpoint.path,
        checkpoint_sha256=record.checkpoint.sha256,
        checkpoint_epoch=record.checkpoint_epoch,
        checkpoint_iter=record.checkpoint_iter,
        dataset='; '.join(data.dataset for data in record.data),
        split='; '.join(data.split for data in record.data),
        images=sum(data.num_images for data in record.data),
        images_sha256='; '.join(str(d.images_sha256) for d in record.data),
        annotations_sha256='; '.join(
            str(file.sha256) for data in record.data
            for file in data.annotations),
        training_seed=run.training_seed,
        test_seed=record.seed,
        tta='yes' if record.tta else 'no')
    row.update((name, run.metrics.get(name)) for name in columns)
    for name in mains:
        value, source = run.published.get(name, (None, None))
        row[f'published {name}'] = value
        row[f'difference {name}'] = run.differences.get(name)
        row[f'source {name}'] = source
    row.update(
        params=model.params,
        flops=model.macs,
        flops_size='x'.join(map(str, size)) if size else None,
        images_per_second=record.cost.images_per_second,
        peak_memory_bytes=record.cost.peak_memory,
        memory_of=record.cost.memory_of,
        device=record.environment.device,
        threads=record.environment.num_threads,
        world_size=record.world_size,
        precision=record.precision,
        torch=record.environment.packages.get('torch'),
        finished=record.finished,
        record=str(run.path))
    return row


def _csv_cell(cell: Any) -> Any:
    """Quote text that a spreadsheet would take for a formula."""
    if isinstance(cell, str) and cell.startswith(
        ('=', '+', '-', '@', '\t', '\r', '\n')):
        return f"'{cell}"
    return cell


def as_html(board: Leaderboard) -> str:
    """A sortable page that needs no other file and no network."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined)
    environment.filters.update(
        cells=_cells,
        class_rows=_class_rows,
        count=_count,
        facts=_facts,
        heading=_heading,
        line=_line,
        metric_rows=_metric_rows,
        number=_number)
    return environment.get_template('leaderboard.html').render(
        num_runs=sum(len(table.runs) for table in board.tables),
        tasks=[(TASK_TITLES.get(task, task), tables)
               for task, tables in _by_task(board)],
        warnings=board.warnings)


@dataclass(frozen=True)
class Cell:
    """A cell of the page.

    Attributes:
        title (str): Of its column.
        text (str): Its content.
        key (str | float, optional): Value that its column is sorted by; None
            if it is not known.
        style (str): 'number', and 'minor' for columns that narrow screens
            hide.
    """
    title: str
    text: str
    key: str | float | None
    style: str = ''


def _cells(run: Run, table: Table) -> list[Cell]:
    """Cells of a run behind its config."""
    record, model, cost = run.record, run.record.model, run.record.cost
    published = next((value for value, _ in run.published.values()), None)
    minor = '' if table.comparable else 'minor '
    reasons, digest = '; '.join(run.reasons), _short(record.checkpoint.sha256)
    return [
        Cell('Family', run.family, run.family, 'minor'),
        Cell('Variant', model.variant, model.variant, 'minor'),
        Cell('Head', model.head, model.head, 'minor'),
        Cell('Schedule', model.schedule, _leading_number(model.schedule),
             'minor'),
        *(Cell(name, _number(run.metrics.get(name)), run.metrics.get(name),
               'number') for name in _metric_names(table)),
        Cell('Published',
             _published(run).replace(' (', '\n(', 1), published,
             f'{minor}number'),
        Cell('Difference', _differences(run),
             next(iter(run.differences.values()), None), 'number')
        if table.comparable else Cell(REASONS, reasons, reasons),
        Cell('Params', f'{model.params / 1e6:.2f} M', model.params,
             'minor number'),
        Cell('FLOPs',
             _flops(run).replace(' @ ', ' G\n'), model.macs, 'minor number'),
        Cell('Images/s', _number(cost.images_per_second),
             cost.images_per_second, 'minor number'),
        Cell('Memory', f'{_mebibytes(cost)} MiB', cost.peak_memory,
             'minor number'),
        Cell('Seed', _seed(run), run.training_seed, 'minor number'),
        Cell('Checkpoint', digest, digest, 'minor'),
    ]


def _facts(run: Run) -> list[tuple[str, str]]:
    """Details of a run by name."""
    record, model = run.record, run.record.model
    environment, packages = record.environment, record.environment.packages
    trained = [
        _count(number, unit)
        for number, unit in ((record.checkpoint_epoch, 'epoch'),
                             (record.checkpoint_iter, 'iteration'))
        if number is not None
    ]
    flops = 'not counted'
    if model.macs is not None:
        size = 'x'.join(map(str, model.macs_size or ()))
        flops = f'{model.macs:,} multiply-adds at {size}'
    versions = [
        f'{name} {packages[name]}'
        for name in ('mmhier', 'torch', 'torchvision', 'numpy')
        if name in packages
    ]
    return [
        *([('Not comparable because',
            '; '.join(run.reasons))] if run.reasons else []),
        *((f'Published {name}', f'{value} — {source}')
          for name, (value, source) in run.published.items()),
        ('Model', f'{run.family} {model.variant}, {model.head}, '
         f'{model.params / 1e6:.2f} M parameters'),
        ('FLOPs', flops),
        ('Schedule', model.schedule),
        ('Checkpoint', record.checkpoint.path),
        ('sha256', record.checkpoint.sha256 or 'not known'),
        ('Trained for', ', '.join(trained) or 'not known'),
        *(fact for data in record.data for fact in _data_facts(data)),
        ('Measured', f'{_number(record.cost.images_per_second)} images/s, '
         f'{_mebibytes(record.cost)} MiB '
         f'{record.cost.memory_of}, {record.precision}'),
        ('Hardware', _hardware(run)),
        ('Software', ', '.join([f'Python {environment.python}', *versions]) +
         f', operators: {environment.operators}'),
        ('Commit', environment.commit or 'not known'),
        ('Seeds', f'{_seed(run)} in training, {record.seed} in the test'),
        ('Finished', record.finished),
        ('Record', str(run.path)),
    ]


def _data_facts(data: DataRecord) -> list[tuple[str, str]]:
    listed = f' of {data.num_listed}' if data.num_listed else ''
    return [('Data', f'{data.dataset} {data.split} in {data.data_root}, '
             f'{data.num_images}{listed} images'),
            ('Images', data.images_sha256 or 'not listed'),
            *(('Annotations', f'{file.path} {file.sha256}')
              for file in data.annotations)]


def _metric_rows(run: Run) -> list[tuple[str, list[float | None]]]:
    return [(name, [value]) for name, value in run.record.metrics.items()]


def _class_rows(run: Run) -> list[tuple[str, list[float | None]]]:
    """Scores of each class in per cent, the best first."""
    scores = run.record.per_class.values()
    labels = dict.fromkeys(label for values in scores for label in values)
    rows = []
    for label in labels:
        values = [score.get(label) for score in scores]
        rows.append((label, [None if v is None else 100 * v for v in values]))
    rows.sort(
        key=lambda row: -math.inf if row[1][0] is None else row[1][0],
        reverse=True)
    return rows


def _line(curve: Curve) -> dict[str, Any]:
    """A learning curve within 340 x 160 pixels, and its labels."""
    every = -(-len(curve.points) // MAX_CURVE_POINTS)
    points = curve.points[::every]
    if points[-1] != curve.points[-1]:
        points.append(curve.points[-1])
    steps, values = zip(*points)
    low, high = min(values), max(values)
    width = (steps[-1] - steps[0]) or 1
    height = (high - low) or 1
    places = [
        f'{60 + 265 * (step - steps[0]) / width:.1f},'
        f'{128 - 100 * (value - low) / height:.1f}' for step, value in points
    ]
    return dict(
        name=curve.name,
        description=f'{curve.name}: {values[0]:.4g} at step {steps[0]:g}, '
        f'{values[-1]:.4g} at step {steps[-1]:g}, between {low:.4g} and '
        f'{high:.4g}',
        low=f'{low:.3g}',
        high=f'{high:.3g}',
        first=f'{steps[0]:g}',
        last=f'{steps[-1]:g}',
        points=places,
        dots=places if len(places) <= 20 else [])


def _by_task(board: Leaderboard) -> list[tuple[str, list[Table]]]:
    tasks: dict[str, list[Table]] = {}
    for table in board.tables:
        tasks.setdefault(table.task, []).append(table)
    return list(tasks.items())


def _heading(table: Table) -> str:
    return ('Comparable with published results'
            if table.comparable else 'Not comparable')


def _metric_names(table: Table) -> list[str]:
    """Metrics shown as columns: the main ones; for masks all."""
    names = MAIN_METRICS.get(table.task, ())
    if table.task == 'segmentation':
        names = tuple(METRICS[table.task])
    present = {name for run in table.runs for name in run.metrics}
    return [name for name in names if name in present]


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


def _mebibytes(cost: CostRecord) -> str:
    return _number(cost.peak_memory and cost.peak_memory / 2**20, 0)


def _leading_number(schedule: str) -> int | str:
    first = schedule.partition(' ')[0]
    return int(first) if first.isdecimal() else schedule


def _published(run: Run) -> str:
    if not run.published:
        return NONE
    sources = dict.fromkeys(source for _, source in run.published.values())
    values = ' / '.join(f'{value:g}' for value, _ in run.published.values())
    return f'{values} ({"; ".join(sources)})'


def _differences(run: Run) -> str:
    return ' / '.join(f'{value:+.2f}'
                      for value in run.differences.values()) or NONE


def _flops(run: Run) -> str:
    model = run.record.model
    if model.macs is None:
        return NONE
    value = f'{model.macs / 1e9:.3g}' if model.macs < 1e11 else (
        f'{model.macs / 1e9:.0f}')
    return f'{value} @ {"x".join(map(str, model.macs_size or ()))}'


def _hardware(run: Run) -> str:
    record = run.record
    on_cpu = record.cost.memory_of == 'resident'
    threads = ''
    if on_cpu:
        threads = f', {_count(record.environment.num_threads, "thread")}'
    processes = f'{record.world_size} x ' * (record.world_size > 1)
    return f'{processes}{record.environment.device}{threads}'


def _count(number: int, unit: str) -> str:
    return f'{number} {unit}{"s" * (number != 1)}'


def _seed(run: Run) -> str:
    return NONE if run.training_seed is None else str(run.training_seed)


def _short(digest: str | None) -> str:
    return NONE if digest is None else digest[:8]


def _markdown(value: Any) -> str:
    """Escape text for a cell of a table."""
    text = ' '.join(str(value).split())
    for character in '\\|`*[]<>':
        text = text.replace(character, f'\\{character}')
    return text
