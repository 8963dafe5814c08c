"""Tables that `mmhier benchmark` prints and writes."""
import argparse
import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from mmhier.analysis import Complexity, InferencePass, count_complexity
from mmhier.analysis.benchmark_page import Row, update_page, write_rows
from mmhier.analysis.benchmarking import (
    Case,
    Measurement,
    count_saved_bytes,
    fit_line,
    fresh_memory_rate,
    machine_rates,
    measure,
    peak_bytes_of_pass,
    peak_bytes_of_process,
    profile_pass,
)
from mmhier.analysis.variants import (
    PEERS,
    WholeModel,
    build_variant,
    load_target,
    variant_config,
)
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError
from mmhier.files import require_writable, write_text
from mmhier.leaderboard.run_facts import describe_environment

MIB = 2**20


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Cases that the arguments ask for."""
    return [
        Case(mode, height, width, arguments.batch_size, dtype, arguments.device)
        for mode in arguments.mode for dtype in arguments.dtypes
        for height, width in arguments.sizes
    ]


def run_cases(arguments: argparse.Namespace) -> list[Measurement]:
    """Measure every form in every case."""
    target = load_target(arguments.model)
    for form in arguments.forms:
        variant_config(target, form)
    results: list[Measurement] = []
    for case in cases_of(arguments):
        with naming_config_errors(target):
            forms = {
                form:
                build_variant(target, form, case.mode == 'training',
                              case.device)
                for form in arguments.forms
            }
        own = [form for form in arguments.forms if form not in PEERS]
        found = measure(forms, case, arguments.rounds, next(iter(own), None))
        for result in found:
            model = forms[result.variant]
            if result.variant in PEERS:
                result.difference = None  # of other weights
            if arguments.macs:
                result.macs = count_layers(model, case).macs
            if arguments.memory:
                add_memory(result, arguments, model)
            print(', '.join(filter(None, table_rows([result])[0])), flush=True)
        results += found
    return results


def profile_table(arguments: argparse.Namespace) -> str:
    """Operators of a pass of the last form in the last case."""
    case = cases_of(arguments)[-1]
    model = build_variant(
        load_target(arguments.model), arguments.forms[-1],
        case.mode == 'training', case.device)
    found = profile_pass(model, case)
    total = sum(seconds for _, _, seconds in found)
    lines = [
        f'\nWhere the time of {arguments.forms[-1]} goes:\n',
        '| operator | calls | ms | share |', '|---|---|---|---|'
    ]
    lines += [
        f'| {name} | {count} | {seconds * 1e3:.1f} | {seconds / total:.0%} |'
        for name, count, seconds in found[:6]
    ]
    if case.dtype == 'float32':
        lines.append('\n' + limits(count_layers(model, case), case))
    return '\n'.join(lines) + '\n'


def count_layers(model: torch.nn.Module, case: Case) -> Complexity:
    """Multiply-adds of a pass without gradients."""
    layers = InferencePass(
        model.model if isinstance(model, WholeModel) else model)
    return count_complexity(layers, tuple(case.images().shape))


def limits(cost: Complexity, case: Case) -> str:
    """Time of a pass's multiply-adds at the rates of the machine."""
    rates = machine_rates(case.device)
    times = {}
    for part, macs, forward, backward in (('convolutions and linear layers',
                                           cost.macs - cost.attention_macs,
                                           '1x1 convolution',
                                           'gradients of a 1x1 convolution'),
                                          ('attention', cost.attention_macs,
                                           'attention',
                                           'gradients of attention')):
        times[part] = macs / 1e6 / rates[f'{forward}, GMACs/s']
        if case.mode == 'training':
            times[part] += 2 * macs / 1e6 / rates[f'{backward}, GMACs/s']
    return ('At the rates of this machine the multiply-adds alone take ' +
            ' and '.join(f'{ms:.0f} ms for {part}'
                         for part, ms in times.items()) + '.')


def rates_table(device: str) -> str:
    """Markdown table of the rates that the machine reaches."""
    rates = machine_rates(device)
    lines = ['| | |', '|---|---|']
    lines += [f'| {name} | {rate:.1f} |' for name, rate in rates.items()]
    return '\n'.join(lines) + '\n'


def report(arguments: argparse.Namespace) -> tuple[str, list[Measurement]]:
    """Markdown of all that was asked for, and its rows."""
    if arguments.rates:
        return rates_table(arguments.device), []
    results = run_cases(arguments)
    table = markdown_table(results)
    if arguments.profile:
        table += profile_table(arguments)
    return table, results


def add_memory(result: Measurement, arguments: argparse.Namespace,
               model: torch.nn.Module) -> None:
    """Measure the memory of a form, in place."""
    case = result.case
    if case.device == 'cpu':
        result.peak_bytes = peak_bytes_of_process([
            '-m', 'mmhier', 'benchmark', arguments.model, '--forms',
            result.variant, '--sizes', f'{case.height}x{case.width}', '--mode',
            case.mode, '--dtypes', case.dtype, '--batch-size',
            str(case.batch_size), '--threads',
            str(arguments.threads), '--only-peak'
        ])
    else:
        result.peak_bytes = peak_bytes_of_pass(model, case)
    if case.mode == 'training':
        result.saved_bytes = count_saved_bytes(model, case)


ROW = ('form', 'mode', 'dtype', 'size', 'batch', 'ms', 'speed-up', 'range',
       'difference', 'peak MiB', 'saved MiB', 'GMACs', 'GMACs/s')


def table_rows(results: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """One row of strings a result, in the order of ``ROW``."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        case = result.case
        rows.append((result.variant, case.mode, case.dtype,
                     f'{case.height}x{case.width}', str(case.batch_size),
                     _number(result.seconds, '.1f',
                             1e3), _number(result.speed_up, '.2f'), ' to '.join(
                                 filter(None,
                                        (_number(result.lowest, '.2f'),
                                         _number(result.highest, '.2f')))),
                     _number(result.difference,
                             '.1e'), _number(result.peak_bytes, '.0f', 1 / MIB),
                     _number(result.saved_bytes, '.0f',
                             1 / MIB), _number(result.macs, '.2f', 1e-9),
                     _number(
                         result.macs and result.seconds
                         and result.macs / result.seconds, '.1f', 1e-9)))
    return rows


def _number(value: float | None, style: str, factor: float = 1) -> str:
    """A number in a style, nothing for none."""
    return '' if value is None else format(value * factor, style)


def markdown_table(results: Sequence[Measurement]) -> str:
    """Table without the columns that say nothing, and fits of memory."""
    rows = [ROW, *table_rows(results)]
    columns = [
        column for column in zip(*rows)
        if any(column[1:]) and not (column[0] in (
            'mode', 'dtype', 'batch') and len(set(column[1:])) == 1)
    ]
    lines = ['| ' + ' | '.join(row) + ' |' for row in zip(*columns)]
    lines.insert(1, '|' + '---|' * len(columns))
    case = results[0].case
    lines += [
        '', f'{case.mode}, {case.dtype}, batch size {case.batch_size}'
        if len({(r.case.mode, r.case.dtype)
                for r in results}) == 1 else f'batch size {case.batch_size}'
    ]
    for form in dict.fromkeys(result.variant for result in results):
        points = [(r.case.height * r.case.width, r.peak_bytes) for r in results
                  if r.variant == form and r.peak_bytes]
        if len({pixels for pixels, _ in points}) >= 4:
            deviation, power = fit_line(points)
            lines.append(
                f'\nPeak memory of {form}: a straight line in the number of '
                f'pixels is off by at most {deviation:.0%}; it grows with '
                f'their power {power:.2f}.')
    return '\n'.join(lines) + '\n'


@cache
def machine(device: str) -> str:
    """Hardware, the rate of writing fresh memory, and versions, in a line."""
    facts = describe_environment(device)
    names = ('torch', 'torchvision', 'mmhier')
    versions = ', '.join(f'{n} {facts.packages[n]}' for n in names)
    return (f'{facts.device}, {torch.get_num_threads()} threads, fresh memory '
            f'at {fresh_memory_rate(device):.1f} GB/s; Python '
            f'{facts.python}, {versions}, commit {str(facts.commit)[:12]}')


def csv_rows(arguments: argparse.Namespace,
             results: Sequence[Measurement]) -> list[Row]:
    """Rows of the measurements, each with the machine."""
    conditions = machine(arguments.device)
    if arguments.rates:
        return [
            dict(rate=name, value=f'{rate:.1f}', machine=conditions)
            for name, rate in machine_rates(arguments.device).items()
        ]
    model = Path(arguments.model).name.removesuffix('.py')
    return [
        dict(model=model, **dict(zip(ROW, row)), machine=conditions)
        for row in table_rows(results)
    ]


def keep_freed_memory() -> None:
    """Keep malloc from returning memory and from mapping large blocks."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'mallopt'):
        raise MMHierError('--keep-memory: expected glibc, whose malloc it sets')
    trim_threshold, mmap_max = -1, -4  # as in malloc.h
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_max, 0)


def run_benchmark(arguments: argparse.Namespace) -> None:
    """Measure, print and write the cases of the arguments.

    Args:
        arguments (argparse.Namespace): Of ``mmhier benchmark``.

    Raises:
        MMHierError: If an argument does not fit, before anything is measured.
    """
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    logging.disable(logging.INFO)
    if arguments.page:
        update_page(arguments.page, arguments.only, not arguments.tables)
        return
    if arguments.model is None and not arguments.rates:
        raise MMHierError('expected a backbone such as hatnet-tiny, a config '
                          'file, --rates or --page')
    for name in ('csv', 'markdown'):
        path = getattr(arguments, name)
        if path and os.path.isfile(path):
            raise MMHierError(f'{path} exists: remove it or name another file')
        if path:
            require_writable(f'--{name}', path)
    if arguments.device != 'cpu' and not torch.cuda.is_available():
        raise MMHierError(f'--device {arguments.device}: no such device here, '
                          'expected cpu')
    if arguments.device != 'cpu':
        # torch synchronizes and counts memory on the current device.
        torch.cuda.set_device(arguments.device)
    if arguments.threads is None:
        arguments.threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    if arguments.keep_memory:
        keep_freed_memory()
    if arguments.only_peak:
        target = load_target(arguments.model)
        case, = cases_of(arguments)
        model = build_variant(target, arguments.forms[0],
                              case.mode == 'training', case.device)
        print(peak_bytes_of_pass(model, case))
        return
    table, results = report(arguments)
    conditions = machine(arguments.device)
    print(f'\n{table}\n{conditions}')
    if arguments.markdown:
        write_text(arguments.markdown, f'{table}\nMeasured on: {conditions}.\n')
    if arguments.csv:
        write_rows(Path(arguments.csv), csv_rows(arguments, results))
