"""Convert a detection set in YOLO's or Pascal VOC's format to COCO's.

Reads data.yaml and label files of boxes or outlines (yolo), or XML files
(voc), checks them, and writes OUT/annotations/instances_SPLIT2017.json and
OUT/SPLIT2017, a link to the images: the layout that --data-root expects.
`mmhier train CONFIG --data-root SOURCE --data-format yolo` converts by itself.
Needs supervision: pip install "mmhier[supervision]".

Examples:
    mmhier convert-data yolo data/parts data/parts-coco
    mmhier convert-data yolo data/parts/data.yaml data/parts-coco
    mmhier convert-data voc VOCdevkit/VOC2012 data/voc --copy-images
"""
import argparse
import sys
from collections.abc import Sequence

from .arguments import add_overwrite, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('convert-data', __doc__)
    parser.add_argument(
        'format', choices=['yolo', 'voc'], help='format of SOURCE')
    parser.add_argument(
        'source', metavar='SOURCE', help='folder of the set, or its data.yaml')
    parser.add_argument('out_dir', metavar='OUT', help='folder of the result')
    parser.add_argument(
        '--copy-images',
        action='store_true',
        help='copy the images instead of linking to their folder')
    add_overwrite(parser, 'replace what OUT holds')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    from mmhier.datasets.formats import convert_data

    converted = convert_data(
        arguments.format,
        arguments.source,
        arguments.out_dir,
        copy_images=arguments.copy_images,
        overwrite=arguments.overwrite,
        warn=lambda line: print(f'warning: {line}', file=sys.stderr))
    for split in converted:
        print(f'{split.ann_file}: {split.num_images} images, '
              f'{split.num_objects} objects')
