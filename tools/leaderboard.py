"""Make a leaderboard from the records of tests.

Writes leaderboard.md, leaderboard.csv and leaderboard.html, a page that
needs no network. Beside each run stands the published result of its config
and the difference; runs that must not be compared with it (other data, other
image size, test-time augmentation, fewer images, another model or schedule)
stand apart, with the reasons.

Examples:
    python tools/leaderboard.py work_dirs
    python tools/leaderboard.py work_dirs/a work_dirs/b --out DIR --overwrite
"""
import argparse
import sys

from mmhier.apis import run_tool
from mmhier.leaderboard.pages import write_leaderboard
from mmhier.leaderboard.tables import build_leaderboard


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'work_dirs',
        nargs='+',
        metavar='WORK_DIR',
        help='searched with all folders below for test_record_*.json')
    parser.add_argument(
        '--out',
        default='leaderboard',
        metavar='DIR',
        help='where the three files go; defaults to leaderboard')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace the files if they exist')
    arguments = parser.parse_args()
    board = build_leaderboard(arguments.work_dirs)
    paths = write_leaderboard(board, arguments.out, arguments.overwrite)
    for warning in board.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    runs = [run for table in board.tables for run in table.runs]
    apart = sum(bool(run.reasons) for run in runs)
    print(f'runs: {len(runs)}, not comparable with published results: '
          f'{apart}; files left out: {len(board.warnings)}')
    print('wrote ' + ', '.join(str(path) for path in paths))


if __name__ == '__main__':
    run_tool(main)
