"""Generate the shapes set: detection, segmentation and classification.

Example:
    mmhier generate-shapes data/shapes
"""
import argparse
from collections.abc import Sequence

from .arguments import command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('generate-shapes', __doc__)
    parser.add_argument('out_dir', help='root of the set')
    parser.add_argument(
        '--num-train', type=int, default=800, help='defaults to 800')
    parser.add_argument(
        '--num-val', type=int, default=160, help='defaults to 160')
    parser.add_argument(
        '--image-size',
        type=int,
        default=192,
        help='height and width in pixels; defaults to 192')
    parser.add_argument('--seed', type=int, default=0, help='defaults to 0')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    command = parser()
    arguments = command.parse_args(argv)
    from mmhier.datasets import generate_shapes

    try:
        is_new = generate_shapes(**vars(arguments))
    except (ValueError, OSError) as error:
        command.error(str(error))
    print(f'{arguments.out_dir}: ' + ('the set was drawn.' if is_new else
                                      'reused, it holds the same set already.'))
