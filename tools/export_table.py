"""Export every backbone at full depth, check it, and write docs/export.md.

The backbones of all variants, and the classifier, RetinaNet, Mask R-CNN and
UperNet of the smallest variant of each family, are exported with random
weights and compared with the model at sizes that the export did not see.
Ends with 1 if an output differs by more than 1e-4 of its standard deviation.
All of them take about an hour on two cores; rows of those that are not named
stay as they are.

Examples:
    python tools/export_table.py
    python tools/export_table.py hatnet-tiny upernet_hatnet-tiny_160k_ade20k-512x512
    python tools/export_table.py --list
"""  # noqa: E501
import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from mmhier.errors import MMHierError, run_tool
from mmhier.files import replace_at_marks, split_at_marks, write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'export.md'
START = '<!-- Measured by tools/export_table.py. -->\n'
END = '<!-- End of the measurements. -->\n'
HEADER = ('model', 'part', 'format', 'parameters (M)', 'files (MB)',
          'export (s)', 'largest difference / std')
# Model, part and format identify a row.
Key = tuple[str, ...]


def list_exports() -> dict[str, tuple[str, str]]:
    """Config and part, 'backbone' or 'model', by the name of a row."""
    from mmengine.fileio import load
    models = [
        model for metafile in load(ROOT / 'model-index.yml')['Import']
        for model in load(ROOT / metafile)['Models']
    ]
    configs = {model['Name']: str(ROOT / model['Config']) for model in models}
    variants = [
        model['Name'].partition('_')[0] for model in models
        if model['Metadata']['Training Data'] == 'ImageNet-1k'
    ]
    exports = {
        # Its backbone returns all four maps.
        variant: (configs[f'retinanet_{variant}_fpn_1x_coco'], 'backbone')
        for variant in variants
    }
    families = [variant.partition('-')[0] for variant in variants]
    for family in dict.fromkeys(families):
        smallest = variants[families.index(family)]
        for name, config in configs.items():
            if name.startswith(
                (f'{smallest}_', f'retinanet_{smallest}_',
                 f'mask-rcnn_{smallest}_fpn_1x', f'upernet_{smallest}_')):
                exports[name] = config, 'model'
    return exports


def measure(config: str, part: str) -> Iterator[tuple[str, ...]]:
    """Export and check a model; format and figures of its rows."""
    import torch
    from mmhier.export import build_graphs, check_export
    from mmhier.export.checking import CHECK_SIZES
    from mmhier.export.exporting import (
        SUFFIXES,
        graph_paths,
        load_model,
        trace,
        write_program,
    )
    from mmhier.export.preparing import prepare_for_export
    model, _ = load_model(config, None)
    model.requires_grad_(False)
    for parameter in model.parameters():
        # Gates and offsets start at zero, which would hide mistakes.
        parameter.add_(0.02 * torch.randn_like(parameter))
    owner = model.backbone if part == 'backbone' else model
    count = sum(parameter.numel() for parameter in owner.parameters())
    graphs = build_graphs(prepare_for_export(model), part)
    start = time.perf_counter()
    programs = [trace(graph) for graph in graphs]
    tracing = time.perf_counter() - start
    for format, suffix in SUFFIXES.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, f'model{suffix}')
            paths = graph_paths(out, graphs)
            start = time.perf_counter()
            for program, graph, path in zip(programs, graphs, paths):
                write_program(program, graph, path, format)
            seconds = tracing + time.perf_counter() - start
            size = sum(path.stat().st_size for path in paths)
            sizes = [
                size for size in CHECK_SIZES
                if format == 'onnx' or min(size) >= max(graph.min_program_size
                                                        for graph in graphs)
            ]
            differences = check_export(model, str(out), part, sizes)
        yield (format, f'{count / 1e6:.1f}', f'{size / 1e6:.0f}',
               f'{seconds:.0f}', f'{max(d.error for d in differences):.1e}')


def describe_conditions() -> str:
    """The line above the table: on what, with what and at which sizes."""
    from mmhier.export.checking import CHECK_SIZES, TOLERANCE
    from mmhier.leaderboard.run_facts import describe_environment
    environment = describe_environment()
    sizes = ', '.join(f'{height}x{width}' for height, width in CHECK_SIZES)
    return (f'Measured with `make test-exports` on {environment.device}, '
            f'{environment.num_threads} thread(s), torch '
            f'{version("torch")}, onnxruntime {version("onnxruntime")}, at '
            f'{sizes} pixels; at most {TOLERANCE:.0e} passes.\n')


def read_rows(text: str) -> dict[Key, Key]:
    """Rows of the page by model, part and format."""
    _, table, _ = split_at_marks(text, START, END, PAGE)
    rows = {}
    for line in table.splitlines():
        cells = tuple(line.strip('| ').split(' | '))
        if len(cells) == len(HEADER) and cells != HEADER:
            rows[cells[:3]] = cells
    return rows


def with_rows(text: str, rows: Sequence[Key]) -> str:
    """Text of the page with another table."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in (HEADER, *rows)]
    lines.insert(1, '|' + '---|' * len(HEADER))
    block = '\n'.join([describe_conditions(), *lines, ''])
    return replace_at_marks(text, START, END, block, PAGE)


def write_row(row: Key, exports: dict[str, tuple[str, str]]) -> None:
    """Add a row to the page, or replace it, by a renamed file."""
    from mmhier.export.exporting import SUFFIXES
    text = PAGE.read_text()
    rows = read_rows(text)
    rows[row[:3]] = row
    order = [(name, part, format) for name, (_, part) in exports.items()
             for format in SUFFIXES]
    write_text(PAGE, with_rows(text,
                               [rows[key] for key in order if key in rows]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'names',
        nargs='*',
        metavar='NAME',
        help='rows to measure, see --list; defaults to all')
    parser.add_argument(
        '--list', action='store_true', help='print the names of all rows')
    arguments = parser.parse_args(argv)
    from mmhier.export.checking import TOLERANCE
    exports = list_exports()
    if arguments.list:
        print('\n'.join(exports))
        return
    unknown = [name for name in arguments.names if name not in exports]
    if unknown:
        raise MMHierError(f'{unknown[0]} is no row of the table: --list prints '
                          'their names')
    text = PAGE.read_text()
    if arguments.names and read_rows(
            text) and describe_conditions() not in text:
        raise MMHierError(
            f'{PAGE} was measured under other conditions: measure '
            'all rows, without names')
    failed = []
    for name in arguments.names or exports:
        config, part = exports[name]
        for figures in measure(config, part):
            row = (name, part, *figures)
            print(*row, flush=True)
            write_row(row, exports)
            if float(row[-1]) > TOLERANCE:
                failed.append(f'{name} ({figures[0]})')
    if failed:
        print(f'NOT EQUAL: {", ".join(failed)}')
        sys.exit(1)


if __name__ == '__main__':
    run_tool(main)
