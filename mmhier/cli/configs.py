"""List the configs of mmhier: names that every command takes as CONFIG.

Examples:
    mmhier configs
    mmhier configs 'mask*hatnet*'
    mmhier configs mask-rcnn_hatnet-tiny_fpn_1x_coco --path
"""
import argparse
from collections.abc import Sequence

from mmhier.errors import MMHierError
from mmhier.zoo import find_configs
from .arguments import command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('configs', __doc__)
    parser.add_argument(
        'pattern',
        nargs='?',
        default='*',
        help='quoted shell pattern of names; defaults to *')
    parser.add_argument(
        '--path', action='store_true', help='print the files instead')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    found = find_configs(arguments.pattern)
    if not found:
        raise MMHierError(f'no config is named {arguments.pattern}: `mmhier '
                          'configs` lists all')
    lines = map(str, found.values() if arguments.path else found)
    # At once: `| head` closes the pipe early.
    print('\n'.join(lines))
