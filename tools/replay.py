"""Run a recorded test again and compare.

Checkpoint and data have to be those of the record, by their hashes. Ends with
exit status 0 if all metrics agree, 1 if one does not, 2 if the test cannot be
run.

Examples:
    python tools/replay.py work_dirs/NAME/test_record_20260101_120000.json
    python tools/replay.py RECORD --data-root DIR --checkpoint FILE  # moved
    python tools/replay.py RECORD --tolerance 0.001   # on another machine
"""
import argparse
import os
import sys

from mmhier.apis import run_tool
from mmhier.leaderboard.replaying import Replay, replay


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
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
        help='largest difference that is taken for agreement, in the units '
        'of the metrics; defaults to 0')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed job were started; defaults '
        'to none')
    # torch.distributed.launch passes the second spelling.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    local_rank = arguments.pop('local_rank')
    if local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(local_rank))
    result = replay(**arguments)
    if result is not None:
        print_comparison(result)
        sys.exit(0 if result.agrees else 1)


def print_comparison(result: Replay) -> None:
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
    for value in result.environment:
        print(f'  {value.name}: recorded {value.recorded}, '
              f'now {value.replayed}')


def show(value) -> str:
    return '-' if value is None else f'{value:.6g}'


if __name__ == '__main__':
    run_tool(main)
