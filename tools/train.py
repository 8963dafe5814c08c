"""Train a detector, segmentor or classifier.

Examples:
    python tools/train.py configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py
    python tools/train.py CONFIG --data-root data/parts --classes auto
"""
from mmhier.apis import parse_tool_args, run_tool, tool_parser, train


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the latest in '
        'the work dir, if there is one')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='start anew in a work dir that holds checkpoints')
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--amp-dtype',
        choices=['float16', 'bfloat16'],
        help='precision of --amp; defaults to bfloat16 on CPUs and to float16 '
        'elsewhere')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch size / auto_scale_lr.'
        'base_batch_size')
    parser.add_argument(
        '--no-validate', action='store_true', help='leave validation out')
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='use deterministic cuDNN kernels')
    train(**parse_tool_args(parser))


if __name__ == '__main__':
    run_tool(main)
