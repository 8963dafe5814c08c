"""A leaderboard as Markdown, CSV and a page of HTML that needs nothing else.

Everything that comes from a record is escaped: names of files and folders
are not under our control.
"""
import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mmhier.errors import MMHierError
from mmhier.files import write_text
from mmhier.leaderboard.tables import (
    MAIN_METRICS,
    METRICS,
    Curve,
    Leaderboard,
    Run,
    Table,
)

TEMPLATE = Path(__file__).with_name('leaderboard.html')
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
        board (Leaderboard): What to write.
        folder (str | Path): Created if it is not there.
        overwrite (bool): Replace existing files. Defaults to False.

    Returns:
        list[Path]: The files.

    Raises:
        ValueError: If one of the files exists, or the folder cannot be
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
        _number(record.cost.images_per_second, 2),
        f'{record.cost.peak_memory / 2**20:.0f} ({record.cost.memory_of})',
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
    """Text that no spreadsheet takes for a formula; numbers as they are."""
    if isinstance(cell, str) and cell.startswith(
        ('=', '+', '-', '@', '\t', '\r', '\n')):
        return f"'{cell}"
    return cell


def as_html(board: Leaderboard) -> str:
    """A page with styles and scripts inside, sortable without a network."""
    sections = [
        f'<section>\n<h2>{_html(TASK_TITLES.get(task, task))}</h2>\n' +
        '\n'.join(_html_table(table) for table in tables) + '\n</section>'
        for task, tables in _by_task(board)
    ]
    if board.warnings:
        items = '\n'.join(f'<li>{_html(item)}</li>' for item in board.warnings)
        sections.append('<section>\n<h2>Files that were left out</h2>\n'
                        f'<ul class="warnings">\n{items}\n</ul>\n</section>')
    count = sum(len(table.runs) for table in board.tables)
    template = Template(TEMPLATE.read_text(encoding='utf-8'))
    return template.substitute(
        summary=_count(count, 'run'), sections='\n'.join(sections))


# Columns of a page: title, whether it is hidden on narrow screens, and
# whether it is a number. Those of the metrics come after the first five.
_RUN_COLUMNS = (('Config', False, False), ('Family', True, False),
                ('Variant', True, False), ('Head', True, False), ('Schedule',
                                                                  True, False))
_COST_COLUMNS = (('Params', True, True), ('FLOPs', True, True),
                 ('Images/s', True, True), ('Memory', True, True),
                 ('Seed', True, True), ('Checkpoint', True, False))


def _html_table(table: Table) -> str:
    names = _metric_names(table)
    columns = [
        *_RUN_COLUMNS, *((name, False, True) for name in names),
        ('Published', not table.comparable, True),
        ('Difference', False, True) if table.comparable else
        (REASONS, False, False), *_COST_COLUMNS
    ]
    head = '\n'.join(f'<th scope="col"{_classes(hidden, number)}>'
                     f'<button type="button">{_html(title)}</button></th>'
                     for title, hidden, number in columns)
    body = '\n'.join(
        _html_run(run, names, columns, table) for run in table.runs)
    kind = '' if table.comparable else ' apart'
    return (
        f'<div class="scroll{kind}" role="region" tabindex="0" '
        f'aria-label="{_html(_heading(table))}: {_html(table.title)}">\n'
        f'<table>\n<caption><div><b>{_heading(table)}</b> '
        f'{_html(table.title)}</div></caption>\n<thead>\n<tr>\n{head}\n</tr>\n'
        f'</thead>\n{body}\n</table>\n</div>')


def _html_run(run: Run, names: Sequence[str],
              columns: Sequence[tuple[str, bool, bool]], table: Table) -> str:
    record, model = run.record, run.record.model
    cells: list[tuple[str,
                      str | float | None]] = [(run.family, run.family),
                                              (model.variant, model.variant),
                                              (model.head, model.head),
                                              (model.schedule,
                                               _leading_number(model.schedule))]
    cells += [(_number(run.metrics.get(name)), run.metrics.get(name))
              for name in names]
    published = [value for value, _ in run.published.values()]
    cells.append(
        (_published(run).replace(' (', '\n(',
                                 1), published[0] if published else None))
    if table.comparable:
        differences = list(run.differences.values())
        cells.append(
            (_differences(run), differences[0] if differences else None))
    else:
        reasons = '; '.join(run.reasons)
        cells.append((reasons, reasons))
    cells += [
        (f'{model.params / 1e6:.2f} M', model.params),
        (_flops(run).replace(' @ ', ' G\n'), model.macs),
        (_number(record.cost.images_per_second,
                 2), record.cost.images_per_second),
        (f'{record.cost.peak_memory / 2**20:.0f} MiB', record.cost.peak_memory),
        (_seed(run), run.training_seed),
        (_short(record.checkpoint.sha256), _short(record.checkpoint.sha256))
    ]
    row = [
        '<th scope="row"><button type="button" class="more" '
        f'aria-expanded="false">{_html(run.name)}</button></th>'
    ]
    for (text, key), (_, hidden, number) in zip(cells, columns[1:]):
        key = '' if key is None else key
        row.append(f'<td{_classes(hidden, number)} data-key="{_html(key)}">'
                   f'{_html(text)}</td>')
    cells_text = '\n'.join(row)
    return (f'<tbody>\n<tr>\n{cells_text}\n</tr>\n<tr class="details">\n'
            f'<td colspan="{len(columns)}"><div class="panel">\n'
            f'{_html_details(run)}\n</div></td>\n</tr>\n</tbody>')


def _html_details(run: Run) -> str:
    """What there is no room for in the row."""
    record, model = run.record, run.record.model
    facts: list[tuple[str, str]] = []
    if run.reasons:
        facts.append(('Apart because', '; '.join(run.reasons)))
    for name, (value, source) in run.published.items():
        facts.append((f'Published {name}', f'{value} — {source}'))
    trained = [
        _count(number, unit)
        for number, unit in ((record.checkpoint_epoch, 'epoch'),
                             (record.checkpoint_iter, 'iteration'))
        if number is not None
    ]
    facts += [
        ('Model', f'{run.family} {model.variant}, {model.head}, '
         f'{model.params / 1e6:.2f} M parameters'),
        ('FLOPs', f'{model.macs:,} multiply-adds at '
         f'{"x".join(map(str, model.macs_size or ()))}'
         if model.macs is not None else 'not counted'),
        ('Schedule', model.schedule),
        ('Checkpoint', record.checkpoint.path),
        ('sha256', record.checkpoint.sha256 or 'not known'),
        ('Trained for', ', '.join(trained) or 'not known'),
    ]
    for data in record.data:
        listed = f' of {data.num_listed}' if data.num_listed else ''
        facts += [('Data', f'{data.dataset} {data.split} in {data.data_root}, '
                   f'{data.num_images}{listed} images'),
                  ('Images', data.images_sha256 or 'not listed')]
        facts += [('Annotations', f'{file.path} {file.sha256}')
                  for file in data.annotations]
    packages = record.environment.packages
    facts += [
        ('Measured', f'{_number(record.cost.images_per_second, 2)} images/s, '
         f'{record.cost.peak_memory / 2**20:.0f} MiB '
         f'{record.cost.memory_of}, {record.precision}'),
        ('Hardware', _hardware(run)),
        ('Software', f'Python {record.environment.python}, ' +
         ', '.join(f'{name} {packages[name]}'
                   for name in ('mmhier', 'torch', 'torchvision', 'numpy')
                   if name in packages) +
         f', operators: {record.environment.operators}'),
        ('Commit', record.environment.commit or 'not known'),
        ('Seeds', f'{_seed(run)} in training, {record.seed} in the test'),
        ('Finished', record.finished),
        ('Record', str(run.path)),
    ]
    parts = [
        '<dl>\n' + '\n'.join(f'<dt>{_html(name)}</dt><dd>{_html(value)}</dd>'
                             for name, value in facts) + '\n</dl>'
    ]
    if record.metrics:
        parts.append(
            _fold(
                f'All {len(record.metrics)} metrics',
                _value_table('Metric', ['Value'], {
                    name: [value]
                    for name, value in record.metrics.items()
                }, 4)))
    if record.per_class:
        parts.append(_per_class(record.per_class))
    parts += [_svg(curve) for curve in run.curves]
    return '\n'.join(parts)


def _per_class(per_class: dict[str, dict]) -> str:
    labels = dict.fromkeys(label for values in per_class.values()
                           for label in values)
    rows: dict[str, list[Any]] = {
        label: [
            None if values.get(label) is None else 100 * values[label]
            for values in per_class.values()
        ]
        for label in labels
    }
    known = [label for label in rows if rows[label][0] is not None]
    known.sort(key=lambda label: -rows[label][0])
    others = [label for label in rows if rows[label][0] is None]
    ordered = {label: rows[label] for label in known + others}
    return _fold(f'{", ".join(per_class)} of {len(rows)} classes',
                 _value_table('Class', list(per_class), ordered, 2))


def _fold(title: str, content: str) -> str:
    return (f'<details>\n<summary>{_html(title)}</summary>\n{content}\n'
            '</details>')


def _value_table(first: str, columns: Sequence[str], rows: dict[str, list],
                 digits: int) -> str:
    head = ''.join(f'<th scope="col">{_html(name)}</th>'
                   for name in (first, *columns))
    body = '\n'.join(f'<tr><th scope="row">{_html(name)}</th>' +
                     ''.join(f'<td class="number">{_number(value, digits)}</td>'
                             for value in values) + '</tr>'
                     for name, values in rows.items())
    return (f'<div class="values" tabindex="0" role="region" aria-label='
            f'"{_html(first)}"><table>\n<thead><tr>{head}</tr></thead>\n'
            f'<tbody>\n{body}\n</tbody>\n</table></div>')


def _svg(curve: Curve) -> str:
    """A learning curve, 340 x 160, in the colours of the page."""
    every = -(-len(curve.points) // MAX_CURVE_POINTS)
    points = curve.points[::every]
    if points[-1] != curve.points[-1]:
        points.append(curve.points[-1])
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    width = (steps[-1] - steps[0]) or 1
    height = (high - low) or 1

    def place(step: float, value: float) -> str:
        return (f'{60 + 265 * (step - steps[0]) / width:.1f},'
                f'{128 - 100 * (value - low) / height:.1f}')

    line = ' '.join(place(step, value) for step, value in points)
    dots = ''
    if len(points) <= 20:
        dots = ''.join('<circle cx="{}" cy="{}" r="2.5"/>'.format(
            *place(step, value).split(',')) for step, value in points)
    title = _html(curve.name)
    description = (f'{title}: {values[0]:.4g} at step {steps[0]:g}, '
                   f'{values[-1]:.4g} at step {steps[-1]:g}, between '
                   f'{low:.4g} and {high:.4g}')
    return (f'<svg viewBox="0 0 340 160" role="img" '
            f'aria-label="{description}">\n'
            f'<text x="60" y="16" class="name">{title}</text>\n'
            '<path class="axis" d="M60 24V132H328"/>\n'
            f'<text x="54" y="32" class="end">{high:.3g}</text>\n'
            f'<text x="54" y="132" class="end">{low:.3g}</text>\n'
            f'<text x="60" y="150">{steps[0]:g}</text>\n'
            f'<text x="328" y="150" class="end">step {steps[-1]:g}</text>\n'
            f'<polyline points="{line}"/>{dots}\n</svg>')


def _by_task(board: Leaderboard) -> list[tuple[str, list[Table]]]:
    tasks: dict[str, list[Table]] = {}
    for table in board.tables:
        tasks.setdefault(table.task, []).append(table)
    return list(tasks.items())


def _heading(table: Table) -> str:
    return ('Comparable with published results'
            if table.comparable else 'Apart')


def _metric_names(table: Table) -> list[str]:
    """Columns of metrics: the main ones, and those beside them that fit."""
    names = MAIN_METRICS.get(table.task, ())
    if table.task == 'segmentation':
        names = tuple(METRICS[table.task])
    present = {name for run in table.runs for name in run.metrics}
    return [name for name in names if name in present]


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


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


def _classes(hidden: bool, number: bool) -> str:
    names = ['minor'] * hidden + ['number'] * number
    return f' class="{" ".join(names)}"' if names else ''


def _html(value: Any) -> str:
    return escape(str(value), quote=True)


def _markdown(value: Any) -> str:
    """Text that stays in its cell and is no markup."""
    text = ' '.join(str(value).split())
    for character in '\\|`*[]<>':
        text = text.replace(character, f'\\{character}')
    return text
