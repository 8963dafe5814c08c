"""Evaluate a detector, segmentor or classifier.

What the run was goes to test_record_TIME.json in the work dir, which
tools/replay.py repeats and tools/leaderboard.py tabulates.

Example:
    python tools/test.py configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py \\
        work_dirs/mask-rcnn_hatnet-tiny_fpn_1x_coco/epoch_12.pth
"""
from mmhier.apis import parse_tool_args, run_tool, test, tool_parser


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='FILE', help='write the predictions to a .pkl file')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace --out if it exists')
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='write pictures of the predictions')
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2.,
        help='seconds for which --show shows each picture; defaults to 2')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation by tta_model and tta_pipeline of the '
        'config')
    test(**parse_tool_args(parser))


if __name__ == '__main__':
    run_tool(main)
