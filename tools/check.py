"""Look at everything that a training needs before it is started.

Reads the data, builds the model, takes a training step in each precision and
predicts; prints what it finds, the worst first, and writes nothing. Ends with
1 if there is an error, with 0 otherwise.

Examples:
    python tools/check.py configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py
    python tools/check.py CONFIG --data-root DIR --every-file --num-gpus 8
    python tools/check.py CONFIG --checkpoint work_dirs/NAME/epoch_12.pth
"""
import sys
from contextlib import redirect_stdout

from mmhier.apis import check_config, parse_tool_args, run_tool, tool_parser


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--checkpoint',
        help='compare this file with the model, as a test '
        'would')
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
    arguments = parse_tool_args(parser)
    for name in ('work_dir', 'launcher'):
        arguments.pop(name)
    # Packages report their progress on the standard output.
    with redirect_stdout(sys.stderr):
        findings = check_config(**arguments)
    for finding in findings:
        print(f'{finding.level.upper():7}  {finding.subject}: '
              f'{finding.message}')
    errors = sum(finding.level == 'error' for finding in findings)
    warnings = sum(finding.level == 'warning' for finding in findings)
    print(f'\n{errors} errors, {warnings} warnings')
    sys.exit(int(errors > 0))


if __name__ == '__main__':
    run_tool(main)
