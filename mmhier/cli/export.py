"""Export a model to ONNX or as a program of torch.export, and check it.

Height, width and number of the images stay dynamic. Boxes are those before
non-maximum suppression; a two-stage detector becomes three files, split at
each suppression. A json file beside them states the preprocessing, and names
and shapes of inputs and outputs.

--check prints, for each output and size, the largest absolute difference from
the model in eager mode in standard deviations of the model's own values;
1e-4 passes. Integers must be equal.

Examples:
    mmhier export CONFIG CHECKPOINT --out model.onnx --check
    mmhier export CONFIG CHECKPOINT --out model.onnx --part backbone
    mmhier export CONFIG CHECKPOINT --out model.pt2 --format torch
    mmhier export CONFIG CHECKPOINT --check model.onnx \\
        --sizes 800x1216 640x640
"""
import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mmhier.errors import MMHierError
from .arguments import (
    add_cfg_options,
    add_checkpoint,
    add_config,
    add_overwrite,
    command_parser,
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('export', __doc__)
    add_config(parser)
    add_checkpoint(
        parser, nargs='?', help='checkpoint file; defaults to random weights')
    parser.add_argument('--out', metavar='FILE', help='file to write')
    parser.add_argument(
        '--format',
        choices=['onnx', 'torch'],
        default='onnx',
        help='onnx (.onnx) or torch (.pt2); defaults to onnx')
    parser.add_argument(
        '--part',
        choices=['model', 'backbone'],
        default='model',
        help='what to export; defaults to model')
    parser.add_argument(
        '--opset',
        type=int,
        default=21,
        help='of ONNX, 18 to 21; defaults to 21')
    parser.add_argument(
        '--check',
        nargs='?',
        const=True,
        metavar='FILE',
        help='compare what was written, or this .onnx file, with the model; '
        'exit with 1 if they differ')
    parser.add_argument(
        '--sizes',
        nargs='+',
        metavar='HxW',
        help='sizes of the images of --check; defaults to some that the '
        'export did not see')
    add_overwrite(parser, 'replace existing files')
    add_cfg_options(parser)
    return parser


def parse_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """``['203x317']`` -> ``[(203, 317)]``.

    Raises:
        MMHierError: If a text is no size.
    """
    sizes = []
    for text in texts:
        match = re.fullmatch(r'(\d+)x(\d+)', text)
        if match is None:
            raise MMHierError(f'--sizes {text}: expected HEIGHTxWIDTH in '
                              'pixels, such as 800x1216')
        sizes.append((int(match[1]), int(match[2])))
    return sizes


def check(arguments: argparse.Namespace,
          sizes: list[tuple[int, int]] | None) -> bool:
    """Print the difference of each output; return whether all pass."""
    from mmhier.export import check_export
    from mmhier.export.checking import CHECK_SIZES, TOLERANCE
    from mmhier.export.exporting import load_model

    model, _ = load_model(arguments.config, arguments.checkpoint,
                          arguments.cfg_options)
    differences = check_export(model, arguments.out or arguments.check,
                               arguments.part, sizes or CHECK_SIZES)
    print('max. |exported - eager| / std(eager):')
    width = max(len(d.file) + len(d.output) for d in differences) + 2
    for d in differences:
        size = f'{d.size[0]}x{d.size[1]}'
        print(f'{d.file + ": " + d.output:{width}} {size:>9} {d.error:9.1e}')
    worst = max(d.error for d in differences)
    within = worst <= TOLERANCE
    print(f'{"equal" if within else "NOT EQUAL"}: {worst:.1e} at most, '
          f'{TOLERANCE:.0e} allowed')
    return within


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    command = parser()
    arguments = command.parse_args(argv)
    if arguments.out is None and not isinstance(arguments.check, str):
        command.error('one of --out FILE and --check FILE is needed')
    if arguments.out is not None and isinstance(arguments.check, str):
        command.error('--check takes no FILE beside --out')
    sizes = parse_sizes(arguments.sizes) if arguments.sizes else None
    from mmhier.export import export_model
    from mmhier.export.exporting import require_format

    if arguments.out is None:
        require_format('onnx')
        if Path(arguments.check).suffix != '.onnx':
            raise MMHierError(
                f'--check {arguments.check}: expected an .onnx file. Programs '
                'of torch (.pt2) can hold code that runs when they are '
                'opened: check them when they are written, with --out')
    else:
        paths = export_model(
            arguments.config,
            arguments.checkpoint,
            arguments.out,
            format=arguments.format,
            part=arguments.part,
            opset=arguments.opset,
            overwrite=arguments.overwrite,
            cfg_options=arguments.cfg_options)
        for path in paths:
            print(f'wrote {path}')
    if arguments.check and not check(arguments, sizes):
        sys.exit(1)
