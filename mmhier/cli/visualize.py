"""Draw attention, sampling points, receptive fields, features and samples.

Examples:
    mmhier visualize attention photo.jpg --configs CONFIG \\
        --checkpoints CHECKPOINT --point 320 200 --stage 3 --out attention.png
    mmhier visualize offsets photo.jpg --configs LIT_CONFIG \\
        --checkpoints CHECKPOINT --out offsets.png
    mmhier visualize receptive-field photos --configs CONFIG \\
        OTHER_CONFIG --out receptive-field.png
    mmhier visualize features photo.jpg --configs CONFIG \\
        OTHER_CONFIG --source neck --out features.png
    mmhier visualize browse CONFIG --out-dir samples --num 20
"""
import argparse
from collections.abc import Sequence
from typing import Any

from mmhier.errors import MMHierError
from .arguments import (
    add_cfg_options,
    add_classes,
    add_config,
    add_data_root,
    add_device,
    add_overwrite,
    add_trained_classes,
    command_parser,
)


def head(value: str) -> int | str:
    """Value of --head."""
    return value if value in ('mean', 'all') else int(value)


def add_picture(commands: Any, name: str, image: str,
                description: str) -> argparse.ArgumentParser:
    """Add a subcommand that draws one picture of some models."""
    parser = commands.add_parser(
        name, help=description, description=description)
    parser.add_argument('image', help=image)
    parser.add_argument(
        '--configs',
        nargs='+',
        required=True,
        metavar='CONFIG',
        help='config files or names; several are drawn side by side')
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        metavar='CHECKPOINT',
        help='one for each config; defaults to initial weights')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='.png or .jpg')
    add_overwrite(parser, 'replace --out if it exists')
    parser.add_argument(
        '--size',
        type=int,
        default=448,
        help='shorter side in pixels to which photos are resized; defaults '
        'to 448')
    add_device(parser)
    add_trained_classes(parser)
    add_cfg_options(parser)
    return parser


def add_point(parser: argparse.ArgumentParser) -> None:
    """Add --point."""
    parser.add_argument(
        '--point',
        type=float,
        nargs=2,
        metavar=('X', 'Y'),
        help='pixel of the photo whose token is shown; defaults to the centre')


def add_browse(commands: Any) -> None:
    """Add the subcommand that draws samples of a dataset."""
    description = 'Samples of a dataset behind its pipeline.'
    samples = commands.add_parser(
        'browse', help=description, description=description)
    add_config(samples)
    samples.add_argument(
        '--out-dir', required=True, metavar='DIR', help='where pictures go')
    samples.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help='defaults to train')
    samples.add_argument(
        '--num', type=int, help='number of samples; defaults to all')
    add_data_root(samples)
    add_overwrite(samples, 'write into a folder that holds files')
    add_classes(samples)
    add_cfg_options(samples)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('visualize', __doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    attention = add_picture(
        commands, 'attention', 'photo',
        'Attention of one token, in any block of a backbone of mmhier.')
    add_point(attention)
    attention.add_argument(
        '--stage', type=int, default=4, help='1 to 4; defaults to 4')
    attention.add_argument(
        '--block',
        type=int,
        default=-1,
        help='block of the stage, from 0, or from the end if negative; '
        'defaults to -1')
    attention.add_argument(
        '--head',
        type=head,
        default='mean',
        help='number of a head, mean or all; defaults to mean')
    add_point(
        add_picture(commands, 'offsets', 'photo',
                    "Sampling points of LIT's deformable token merging."))
    field = add_picture(
        commands, 'receptive-field',
        'photo, folder or quoted glob pattern to average over',
        'Effective receptive field of every output of a backbone.')
    field.add_argument(
        '--max-images',
        type=int,
        default=8,
        help='photos to average over; defaults to 8')
    features = add_picture(
        commands, 'features', 'photo',
        'Feature maps of every level of a backbone or neck.')
    features.add_argument(
        '--source',
        choices=['backbone', 'neck'],
        default='backbone',
        help='defaults to backbone')
    add_browse(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    command = arguments.pop('command')
    if command == 'browse':
        from mmhier.visualization.browsing import browse
        count, skipped = browse(**arguments)
        print(f'{count} samples drawn to {arguments["out_dir"]}')
        if skipped:
            raise MMHierError(f'{len(skipped)} samples cannot be loaded, such '
                              f'as {skipped[0]}')
        return
    from mmhier.apis.inference import PICTURE_SUFFIXES, write_picture
    from mmhier.files import require_writable
    from mmhier.visualization import pictures

    out = arguments.pop('out')
    require_writable('--out', out, arguments.pop('overwrite'), PICTURE_SUFFIXES)
    subjects = pictures.load_subjects(*(arguments.pop(key)
                                        for key in ('configs', 'checkpoints',
                                                    'device', 'classes',
                                                    'cfg_options')))
    draw = getattr(pictures, f'draw_{command.replace("-", "_")}')
    write_picture(out, draw(subjects, arguments.pop('image'), **arguments))
    print(f'drawn to {out}')
