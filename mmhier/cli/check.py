"""Check everything that a training needs before it is started.

Reads the data, builds the model, takes a training step in each precision and
predicts; prints the findings, the worst first, and writes nothing. Ends with
1 if there is an error, with 0 otherwise.

Examples:
    mmhier check configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py
    mmhier check CONFIG --data-root DIR --every-file --num-gpus 8
    mmhier check CONFIG --json > findings.json
    mmhier check CONFIG --checkpoint work_dirs/NAME/epoch_12.pth
"""
import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict

from .arguments import (
    add_cfg_options,
    add_classes,
    add_config,
    add_data_format,
    add_data_root,
    add_from_scratch,
    command_parser,
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('check', __doc__)
    add_config(parser)
    add_data_root(parser)
    add_data_format(parser)
    add_classes(parser)
    add_cfg_options(parser)
    add_from_scratch(parser)
    parser.add_argument(
        '--checkpoint', help='compare this file with the model, as a test does')
    parser.add_argument(
        '--every-file',
        action='store_true',
        help='decode every image and mask, not only 100 and 200 of each set')
    parser.add_argument(
        '--num-gpus',
        type=int,
        default=1,
        help='processes of the planned training, for its batch size and '
        'time; defaults to 1')
    parser.add_argument(
        '--json',
        action='store_true',
        help='print the findings as a json list of level, subject and message')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    as_json = arguments.pop('json')
    from mmhier import apis

    # Packages report their progress on the standard output.
    with redirect_stdout(sys.stderr):
        findings = apis.check_config(**arguments)
    errors = sum(finding.level == 'error' for finding in findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
        sys.exit(int(errors > 0))
    for finding in findings:
        print(f'{finding.level.upper():7}  {finding.subject}: '
              f'{finding.message}')
    warnings = sum(finding.level == 'warning' for finding in findings)
    print(f'\n{errors} errors, {warnings} warnings')
    sys.exit(int(errors > 0))
