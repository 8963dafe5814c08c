"""Draw what models attend to, sample, see and compute, and what they train on.

Examples:
    python tools/visualize.py attention photo.jpg --configs CONFIG \\
        --checkpoints CHECKPOINT --point 320 200 --stage 3 --out attention.png
    python tools/visualize.py offsets photo.jpg --configs LIT_CONFIG \\
        --checkpoints CHECKPOINT --out offsets.png
    python tools/visualize.py receptive-field photos --configs CONFIG \\
        OTHER_CONFIG --out receptive-field.png
    python tools/visualize.py features photo.jpg --configs CONFIG \\
        OTHER_CONFIG --source neck --out features.png
    python tools/visualize.py browse CONFIG --out-dir samples --num 20
"""
import argparse
from collections.abc import Callable

from mmengine.config import DictAction
from mmhier.apis import MMHierError, run_tool
from mmhier.apis.inference import check_picture_path, write_picture
from mmhier.visualization.browsing import browse
from mmhier.visualization.pictures import (
    draw_attention,
    draw_features,
    draw_offsets,
    draw_receptive_field,
    load_subjects,
)


def head(value: str) -> int | str:
    """Value of --head."""
    return value if value in ('mean', 'all') else int(value)


def add_picture(commands, name: str, draw: Callable, image: str,
                description: str) -> argparse.ArgumentParser:
    """Parser of a command that draws one picture of some models."""
    parser = commands.add_parser(
        name, help=description, description=description)
    parser.set_defaults(draw=draw)
    parser.add_argument('image', help=image)
    parser.add_argument(
        '--configs',
        nargs='+',
        required=True,
        metavar='CONFIG',
        help='config files or model names; several are drawn side by side')
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        metavar='CHECKPOINT',
        help='one for each config; without, weights are as training would '
        'start with')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='.png or .jpg')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace --out if it exists')
    parser.add_argument(
        '--size',
        type=int,
        default=448,
        help='shorter side in pixels to which photos are resized; defaults '
        'to 448')
    parser.add_argument(
        '--device', help='cpu, cuda:0, ...; defaults to a GPU if there is one')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes that the models were trained on, or a .txt file with a '
        'name a line, if they are not those of the configs')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of every config')
    return parser


def add_point(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--point',
        type=float,
        nargs=2,
        metavar=('X', 'Y'),
        help='pixel of the photo whose token is shown; defaults to the centre')


def parse_args() -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)

    attention = add_picture(
        commands, 'attention', draw_attention, 'photo',
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
        add_picture(commands, 'offsets', draw_offsets, 'photo',
                    "Sampling points of LIT's deformable token merging."))

    field = add_picture(
        commands, 'receptive-field', draw_receptive_field,
        'photo, folder or quoted glob pattern to average over',
        'Effective receptive field of every output of a backbone.')
    field.add_argument(
        '--max-images',
        type=int,
        default=8,
        help='photos to average over; defaults to 8')

    features = add_picture(
        commands, 'features', draw_features, 'photo',
        'Feature maps of every level of a backbone or neck.')
    features.add_argument(
        '--source',
        choices=['backbone', 'neck'],
        default='backbone',
        help='defaults to backbone')

    description = 'Samples of a dataset behind its pipeline.'
    samples = commands.add_parser(
        'browse', help=description, description=description)
    samples.add_argument('config', help='config file or model name')
    samples.add_argument(
        '--out-dir', required=True, metavar='DIR', help='where pictures go')
    samples.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help='defaults to train')
    samples.add_argument(
        '--num', type=int, help='number of samples; defaults to all')
    samples.add_argument(
        '--data-root',
        metavar='DIR',
        help='use the data in '
        'DIR, laid out as in data_root of the config')
    samples.add_argument(
        '--overwrite',
        action='store_true',
        help='write into a folder that holds files')
    samples.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes of your own data, a .txt file with a name a line, or '
        'auto')
    samples.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    return vars(parser.parse_args())


def main() -> None:
    arguments = parse_args()
    if arguments.pop('command') == 'browse':
        count, skipped = browse(**arguments)
        print(f'{count} samples drawn to {arguments["out_dir"]}')
        if skipped:
            raise MMHierError(f'{len(skipped)} samples cannot be loaded, such '
                              f'as {skipped[0]}')
        return
    out = arguments.pop('out')
    check_picture_path(out, arguments.pop('overwrite'))
    draw = arguments.pop('draw')
    subjects = load_subjects(*(arguments.pop(key)
                               for key in ('configs', 'checkpoints', 'device',
                                           'classes', 'cfg_options')))
    write_picture(out, draw(subjects, arguments.pop('image'), **arguments))
    print(f'drawn to {out}')


if __name__ == '__main__':
    run_tool(main)
