"""Time and memory of a backbone or a whole model, in several forms.

Runs the forms in turn in one process, so that ratios hold on a busy machine
too, and compares each with the first. auto, sdpa and eager are values of
attn_impl, plain is the computation of the authors' code, compiled is
torch.compile, channels_last a memory format; swin-t, pvtv2-b2, convnext-t and
resnet50 put another backbone in the same place, and so does timm:NAME any
model of timm; FILE.py:NAME calls NAME() for a model, given our weights where
it has the authors' layout.

Examples:
    mmhier benchmark hatnet-tiny --forms plain auto --sizes 448x672
    mmhier benchmark lit-small --forms plain auto --mode training \\
        --sizes 448x672 --memory --csv lit.csv --markdown lit.md
    mmhier benchmark hatnet-tiny --forms HAT_Net.py:HAT_Net_tiny auto
    mmhier benchmark --forms swin-t auto --sizes 800x1344 --macs \\
        configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py
    mmhier benchmark --page docs/speed.md --only backbones  # measure again
"""
import argparse
import re
from collections.abc import Sequence

from .arguments import add_amp, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('benchmark', __doc__)
    parser.add_argument(
        'model',
        nargs='?',
        help='backbone such as hatnet-tiny or accvit-base, or a config file')
    parser.add_argument(
        '--forms',
        nargs='+',
        default=['eager', 'auto'],
        metavar='FORM',
        help='what to compare, the first with each other one; defaults to '
        'eager auto')
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=parse_size,
        default=[(224, 224)],
        metavar='HxW',
        help='of the images, in pixels; defaults to 224')
    parser.add_argument(
        '--mode',
        nargs='+',
        choices=['inference', 'training'],
        default=['inference'],
        help='training is forward and backward; defaults to inference')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=['float32', 'bfloat16', 'float16'],
        default=['float32'],
        help='others than float32 by autocast; defaults to float32, or to the '
        'precision of --amp')
    add_amp(parser)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--rounds',
        type=int,
        default=7,
        help='times that each form is timed, 0 for memory alone; defaults to '
        '7')
    parser.add_argument('--device', default='cpu', help='defaults to cpu')
    parser.add_argument(
        '--threads',
        type=int,
        help="of torch on the CPU; defaults to torch's choice")
    parser.add_argument(
        '--memory',
        action='store_true',
        help='measure the peak of a pass, on a CPU in a fresh process each, '
        'and in training what is saved for the backward pass')
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help='keep freed memory in the process, as jemalloc does, instead of '
        'giving it back to the system (glibc)')
    parser.add_argument(
        '--macs', action='store_true', help='count multiply-adds')
    parser.add_argument(
        '--profile',
        action='store_true',
        help='tell which operators the time of the last form goes to')
    parser.add_argument(
        '--rates',
        action='store_true',
        help='measure what the machine reaches, instead of a model')
    parser.add_argument('--csv', metavar='FILE', help='write a row per result')
    parser.add_argument('--markdown', metavar='FILE', help='write the table')
    parser.add_argument(
        '--page',
        metavar='FILE',
        help='run the commands of speed/commands.txt beside a page, write the '
        'rows to speed/NAME.csv and the tables between '
        '"<!-- benchmark: NAME -->" and "<!-- end -->"')
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        help='names in speed/commands.txt to measure; defaults to all')
    parser.add_argument(
        '--tables',
        action='store_true',
        help='write the tables of --page from its CSV files, without '
        'measuring')
    parser.add_argument(
        '--only-peak', action='store_true', help=argparse.SUPPRESS)
    return parser


def parse_size(text: str) -> tuple[int, int]:
    """'448x672' or '224' -> height and width."""
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'{text}: expected HxW, as 448x672')
    return int(match[1]), int(match[2] or match[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    if arguments.amp or arguments.amp_dtype is not None:
        from mmhier.engine.amp import autocast_dtype
        arguments.dtypes = [
            autocast_dtype(arguments.amp_dtype, arguments.device)
        ]
    from mmhier.analysis.benchmark_report import run_benchmark
    run_benchmark(arguments)
