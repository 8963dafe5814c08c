"""Run a model on an image, a folder, a glob pattern, a video or a camera.

Pictures and predictions.json go to --out-dir. Files that cannot be read are
skipped and listed in predictions.json; the exit status is 1 then.

Without CHECKPOINT, the official weights of the config are used.

Examples:
    mmhier infer mask-rcnn_lit-small_fpn_1x_coco photo.jpg
    mmhier infer CONFIG CHECKPOINT photo.jpg --out-dir results
    mmhier infer CONFIG CHECKPOINT photos --out-dir results \\
        --batch-size 8 --score-thr 0.5
    mmhier infer CONFIG CHECKPOINT 'photos/**/*.jpg' --out-dir results
    mmhier infer CONFIG CHECKPOINT photos --out-dir results \\
        --score-thr 0.001 --coco annotations/instances_val2017.json
    mmhier infer CONFIG CHECKPOINT film.mp4 --out-dir results
    mmhier infer CONFIG CHECKPOINT --camera 0 --out-dir results
"""
import argparse
import os
import sys
from collections.abc import Sequence

from .arguments import (
    add_amp,
    add_cfg_options,
    add_config,
    add_device,
    add_optional_checkpoint,
    add_overwrite,
    add_predictions,
    add_trained_classes,
    command_parser,
)

# Skipped files to name on the screen; predictions.json names all.
MAX_NAMED = 10


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('infer', __doc__)
    add_config(parser)
    add_optional_checkpoint(parser)
    parser.add_argument(
        'inputs',
        nargs='?',
        metavar='INPUT',
        help='image, folder, quoted glob pattern or video')
    parser.add_argument(
        '--camera', type=int, metavar='N', help='read this camera instead')
    parser.add_argument(
        '--out-dir',
        metavar='DIR',
        help='where results go; defaults to work_dirs/NAME_OF_THE_CONFIG/'
        'predictions')
    add_predictions(parser)
    parser.add_argument(
        '--max-frames',
        type=int,
        help='frames of a video or camera to read; defaults to all')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='defaults to 1')
    parser.add_argument(
        '--coco',
        nargs='?',
        const='',
        metavar='ANN_FILE',
        help="also write coco_results.json, in COCO's results format, with the "
        'ids of images and categories in ANN_FILE, by default counted from 1')
    add_device(parser)
    add_amp(parser)
    add_overwrite(parser, 'replace results that --out-dir holds')
    add_trained_classes(parser)
    add_cfg_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    if (arguments['inputs'], arguments['camera']) == (
            None, None) and arguments['checkpoint'] != 'official':
        arguments['inputs'] = arguments['checkpoint']
        arguments['checkpoint'] = 'official'
    if arguments['out_dir'] is None:
        name = os.path.basename(arguments['config']).removesuffix('.py')
        arguments['out_dir'] = os.path.join('work_dirs', name, 'predictions')
    from mmhier import apis

    result = apis.infer(**arguments)
    kind = 'frames' if 'frames' in result else 'images'
    skipped = result['skipped']
    print(f'{len(result[kind])} {kind} done, {len(skipped)} skipped: '
          f'{arguments["out_dir"]}/predictions.json')
    for entry in skipped[:MAX_NAMED]:
        where = entry.get('file') or f'frame {entry["frame"]}'
        print(f'skipped: {where} {entry["reason"]}', file=sys.stderr)
    if len(skipped) > MAX_NAMED:
        print(f'skipped: {len(skipped) - MAX_NAMED} more', file=sys.stderr)
    sys.exit(1 if skipped else 0)
