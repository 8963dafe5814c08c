"""Export a model as ONNX or as a program of torch.export, and check it.

Height, width and number of the images stay free. Boxes are those before
non-maximum suppression; a two-stage detector becomes three files, one up to
each suppression and one for the masks. A json file beside them tells how
images are prepared, and names and shapes of inputs and outputs.

--check prints, for each output and size, the largest absolute difference from
the model in eager mode by the standard deviation of the model's own values;
1e-4 passes. Integers have to be the same.

Examples:
    python tools/export.py CONFIG CHECKPOINT --out model.onnx --check
    python tools/export.py CONFIG CHECKPOINT --out model.onnx --part backbone
    python tools/export.py CONFIG CHECKPOINT --out model.pt2 --format torch
    python tools/export.py CONFIG CHECKPOINT --check model.onnx \\
        --sizes 800x1216 640x640
"""
import argparse
import re
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmhier.apis import MMHierError, run_tool
from mmhier.export import check_export, export_model
from mmhier.export.checking import CHECK_SIZES, TOLERANCE
from mmhier.export.exporting import load_model, require_format


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config',
        help='config file, or name of a model such as '
        'mask-rcnn_hatnet-tiny_fpn_1x_coco')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file; defaults to initial weights')
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
        f'exits with 1 if an output is off by more than {TOLERANCE} of its '
        'standard deviation')
    parser.add_argument(
        '--sizes',
        nargs='+',
        metavar='HxW',
        help='sizes of the images of --check; defaults to ' +
        ' '.join(f'{h}x{w}' for h, w in CHECK_SIZES))
    parser.add_argument(
        '--overwrite', action='store_true', help='replace existing files')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    arguments = parser.parse_args()
    if arguments.out is None and not isinstance(arguments.check, str):
        parser.error('one of --out FILE and --check FILE is needed')
    if arguments.out is not None and isinstance(arguments.check, str):
        parser.error('--check takes no FILE beside --out')
    return arguments


def parse_sizes(texts) -> list:
    """[('203x317')] -> [(203, 317)]."""
    sizes = []
    for text in texts:
        match = re.fullmatch(r'(\d+)x(\d+)', text)
        if match is None:
            raise MMHierError(f'--sizes {text}: expected HEIGHTxWIDTH in '
                              'pixels, such as 800x1216')
        sizes.append((int(match[1]), int(match[2])))
    return sizes


def check(arguments: argparse.Namespace, sizes: list) -> bool:
    """Print how far each output is off; whether all are near enough."""
    model, _ = load_model(arguments.config, arguments.checkpoint,
                          arguments.cfg_options)
    differences = check_export(model, arguments.out or arguments.check,
                               arguments.part, sizes)
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


def main() -> None:
    arguments = parse_arguments()
    sizes = parse_sizes(arguments.sizes) if arguments.sizes else CHECK_SIZES
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


if __name__ == '__main__':
    run_tool(main)
