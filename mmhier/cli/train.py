"""Train a detector, segmentor or classifier.

Examples:
    mmhier train configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py
    mmhier train CONFIG --data-root data/parts --classes auto
"""
import argparse
from collections.abc import Sequence

from .arguments import (
    add_config,
    add_from_scratch,
    add_overwrite,
    add_run,
    command_parser,
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('train', __doc__)
    add_config(parser)
    add_run(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; without a value, from the latest '
        'in the work dir, if there is one')
    add_from_scratch(parser)
    add_overwrite(parser, 'start anew in a work dir that holds checkpoints')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.'
        'base_batch_size')
    parser.add_argument(
        '--no-validate', action='store_true', help='skip validation')
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='use deterministic kernels alone; models that have operators '
        'without one on GPUs are refused')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    from mmhier import apis
    apis.train(**arguments)
