"""Break down the errors of a detector or a segmentor.

Compares the predictions that `mmhier test --out` wrote with the test set of
the config: AP or IoU per class, confusion matrix, the AP that detectors lose
to localisation, classification, duplicates, background and missed objects
(TIDE, https://arxiv.org/abs/2008.08115), and the images with most errors.

Example:
    mmhier test CONFIG CHECKPOINT --out predictions.pkl
    mmhier analyze CONFIG predictions.pkl --out analysis
"""
import argparse
import os
import tempfile
from collections.abc import Sequence

from mmhier.errors import MMHierError
from .arguments import (
    add_cfg_options,
    add_config,
    add_data_root,
    add_overwrite,
    command_parser,
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('analyze', __doc__)
    add_config(parser)
    parser.add_argument(
        'predictions', help='.pkl file that `mmhier test --out` wrote')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='folder for the results')
    add_overwrite(parser, 'replace the results in --out')
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
    add_data_root(parser)
    add_cfg_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    if arguments.num_worst < 1:
        raise MMHierError('--num-worst: expected at least 1')
    from mmhier.analysis.results import analyze_results
    from mmhier.apis import check_data, load_config
    from mmhier.engine.config_errors import naming_config_errors

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
    print(f'wrote to {arguments.out}: ' +
          ', '.join(sorted(os.listdir(arguments.out))))
