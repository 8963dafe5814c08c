"""Evaluate a detector, segmentor or classifier.

Writes test_record_TIME.json to the work dir, which `mmhier replay` repeats
and `mmhier leaderboard` tabulates.

Examples:
    mmhier test configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py \\
        work_dirs/mask-rcnn_hatnet-tiny_fpn_1x_coco/epoch_12.pth
    # The authors' weights, fetched once; the published score stands beside.
    mmhier test mask-rcnn_lit-small_fpn_1x_coco
"""
import argparse
from collections.abc import Sequence

from .arguments import (
    add_config,
    add_optional_checkpoint,
    add_overwrite,
    add_run,
    add_tta,
    command_parser,
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('test', __doc__)
    add_config(parser)
    add_optional_checkpoint(parser)
    add_run(parser)
    parser.add_argument(
        '--out', metavar='FILE', help='write the predictions to a .pkl file')
    add_overwrite(parser, 'replace --out if it exists')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2.,
        help='seconds for which --show shows each picture; defaults to 2')
    add_tta(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    from mmhier import apis
    apis.test(**arguments)
