"""Where a detector or a segmentor goes wrong, in numbers and pictures.

Reads the predictions that tools/test.py wrote and compares them with the
test set of the config: AP or IoU of every class, the confusion matrix, for
detectors what localisation, classification, duplicates, background and missed
objects cost (TIDE, https://arxiv.org/abs/2008.08115), and the images with
most errors.

Example:
    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/analyze_results.py CONFIG predictions.pkl \\
        --out analysis
"""
import argparse
import os
import tempfile
from pathlib import Path

from mmengine.config import DictAction
from mmhier.analysis.results import analyze_results
from mmhier.apis import MMHierError, check_data, load_config, run_tool
from mmhier.engine.config_errors import naming_config_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='of mmdet or mmseg')
    parser.add_argument(
        'predictions', help='.pkl file that tools/test.py --out wrote')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder for the results')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the results in --out')
    parser.add_argument(
        '--iou-type',
        choices=['bbox', 'segm'],
        default='bbox',
        help='compare boxes or masks of detections; defaults to bbox')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of detections in the confusion matrix and on the '
        'sheet of images; defaults to 0.3')
    parser.add_argument(
        '--num-worst',
        type=int,
        default=8,
        help='images on the sheet; defaults to 8')
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        help='use the data in DIR, laid out as in data_root of the config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    return parser.parse_args()


def main() -> None:
    arguments = parse_args()
    if arguments.num_worst < 1:
        raise MMHierError('--num-worst: expected at least 1')
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            arguments.config,
            work_dir=os.path.join(folder, 'work'),
            data_root=arguments.data_root,
            cfg_options=arguments.cfg_options)
    if cfg.get('test_dataloader') is None:
        raise MMHierError(f'{arguments.config} has no test_dataloader')
    check_data(cfg, ('test', ))
    with naming_config_errors(cfg):
        result = analyze_results(
            cfg,
            arguments.predictions,
            arguments.out,
            iou_type=arguments.iou_type,
            score_threshold=arguments.score_thr,
            num_worst=arguments.num_worst,
            overwrite=arguments.overwrite)
    for name, value in result['metrics'].items():
        print(f'{name:16}{value:8.3f}')
    for kind, error in result.get('errors', {}).items():
        print(f'AP50 lost to {kind:16}{error["AP50_lost"]:8.3f}'
              f'{error["count"]:8} errors')
    print(f'Written to {Path(arguments.out)}: ' +
          ', '.join(sorted(p.name for p in Path(arguments.out).iterdir())))


if __name__ == '__main__':
    run_tool(main)
