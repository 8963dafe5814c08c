"""Tabulate the records of tests.

Writes leaderboard.md, leaderboard.csv and leaderboard.html, a page that
needs no network. Each run stands beside the published result of its config
and the difference. Runs that are not comparable with it (other data, other
image size, test-time augmentation, fewer images, another model or schedule)
are listed separately, with the reasons.

Examples:
    mmhier leaderboard work_dirs
    mmhier leaderboard work_dirs/a work_dirs/b --out DIR --overwrite
"""
import argparse
import sys
from collections.abc import Sequence

from .arguments import add_overwrite, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('leaderboard', __doc__)
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
    add_overwrite(parser, 'replace the files if they exist')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    from mmhier.files import make_writable
    from mmhier.leaderboard.pages import write_leaderboard
    from mmhier.leaderboard.tables import build_leaderboard

    make_writable('--out', arguments.out)
    board = build_leaderboard(arguments.work_dirs)
    paths = write_leaderboard(board, arguments.out, arguments.overwrite)
    for warning in board.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    runs = [run for table in board.tables for run in table.runs]
    apart = sum(bool(run.reasons) for run in runs)
    print(f'runs: {len(runs)}, not comparable with published results: '
          f'{apart}; files left out: {len(board.warnings)}')
    print('wrote ' + ', '.join(str(path) for path in paths))
