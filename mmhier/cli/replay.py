"""Repeat a recorded test and compare.

Checkpoint and data must be those of the record, by their hashes. Ends with
exit status 0 if all metrics agree, 1 if one does not, 2 if the test cannot be
run.

Examples:
    mmhier replay work_dirs/NAME/test_record_20260101_120000.json
    mmhier replay RECORD --data-root DIR --checkpoint FILE  # moved
    mmhier replay RECORD --tolerance 0.001   # on another machine
"""
import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .arguments import add_launcher, command_parser

if TYPE_CHECKING:
    from mmhier.leaderboard.replaying import Replay


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('replay', __doc__)
    parser.add_argument('record', help='test_record_*.json of a work dir')
    parser.add_argument(
        '--checkpoint', metavar='FILE', help='where the checkpoint is now')
    parser.add_argument(
        '--data-root', metavar='DIR', help='where the data is now')
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where the new record and the log go; defaults to the folder of '
        'the record')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=0.,
        help='largest difference that counts as agreement, in the units of '
        'the metrics; defaults to 0')
    add_launcher(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    from mmhier.leaderboard.replaying import replay

    result = replay(**arguments)
    if result is not None:
        print_comparison(result)
        sys.exit(0 if result.agrees else 1)


def print_comparison(result: 'Replay') -> None:
    """Print all metrics, classes that differ, and the environment."""
    differing = [value for value in result.per_class if not value.agrees]
    width = max([len(value.name) for value in result.metrics + differing],
                default=0)
    print(f'\n{"":{width}} {"recorded":>12} {"replayed":>12} {"agrees":>7}')
    for value in result.metrics + differing:
        agrees = 'yes' if value.agrees else 'NO'
        print(f'{value.name:{width}} {show(value.recorded):>12} '
              f'{show(value.replayed):>12} {agrees:>7}')
    if result.per_class:
        print(f'scores by class: {len(result.per_class) - len(differing)} of '
              f'{len(result.per_class)} agree')
    if result.environment:
        print('the environment differs:')
    for change in result.environment:
        print(f'  {change.name}: recorded {change.recorded}, '
              f'now {change.replayed}')


def show(value: float | None) -> str:
    """A metric with six digits."""
    return '-' if value is None else f'{value:.6g}'
