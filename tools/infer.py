"""Run a model on an image, a folder, a glob pattern, a video or a camera.

Pictures and predictions.json go to --out-dir. Files that cannot be used are
skipped and listed in predictions.json; the exit status is 1 then.

Examples:
    python tools/infer.py CONFIG CHECKPOINT photo.jpg --out-dir results
    python tools/infer.py CONFIG CHECKPOINT photos --out-dir results \\
        --batch-size 8 --score-thr 0.5
    python tools/infer.py CONFIG CHECKPOINT 'photos/**/*.jpg' --out-dir results
    python tools/infer.py CONFIG CHECKPOINT film.mp4 --out-dir results
    python tools/infer.py CONFIG CHECKPOINT --camera 0 --out-dir results
"""
import argparse
import sys

from mmengine.config import DictAction
from mmhier.apis import run_tool
from mmhier.apis.inference import infer

# Skipped files that are named on the screen; predictions.json names all.
MAX_NAMED = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config',
        help='config file, or name of a model such as '
        'mask-rcnn_hatnet-tiny_fpn_1x_coco')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'inputs',
        nargs='?',
        metavar='INPUT',
        help='image, folder, quoted glob pattern or video')
    parser.add_argument(
        '--camera', type=int, metavar='N', help='read this camera instead')
    parser.add_argument(
        '--out-dir', required=True, metavar='DIR', help='where results go')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of an instance, in pictures and json; defaults to '
        '0.3')
    parser.add_argument(
        '--top-k',
        type=int,
        default=5,
        help='classes that a classifier reports; defaults to 5')
    parser.add_argument(
        '--max-frames',
        type=int,
        help='frames of a video or camera to read; defaults to all')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='defaults to 1')
    parser.add_argument(
        '--device', help='cpu, cuda:0, ...; defaults to a GPU if there is one')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace results that --out-dir holds')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes that the model was trained on, or a .txt file with a '
        'name a line, if they are not those of the config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    arguments = vars(parser.parse_args())
    result = infer(**arguments)
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


if __name__ == '__main__':
    run_tool(main)
