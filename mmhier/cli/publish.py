"""Reduce a training checkpoint to weights and classes.

Drops optimizer, schedules and message hub, half of the file or more. The
first eight digits of its sha256 become part of the new file's name and are
verified on loading.

Examples:
    # Writes hatnet-tiny-coco-1a2b3c4d.pth (with other digits).
    mmhier publish work_dirs/mask-rcnn/epoch_12.pth hatnet-tiny-coco.pth
    # A checkpoint of training with EMAHook holds two sets of weights.
    mmhier publish work_dirs/lit/epoch_300.pth lit-tiny.pth --ema averaged
    mmhier publish work_dirs/mask-rcnn/epoch_12.pth tiny-coco.safetensors \\
        --safetensors --config mask-rcnn_hatnet-tiny_fpn_1x_coco
"""
import argparse
import os
from collections.abc import Sequence

from .arguments import add_overwrite, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('publish', __doc__)
    parser.add_argument('source', help='checkpoint of a training')
    parser.add_argument(
        'target', help='file to write; its hash is added to the name')
    parser.add_argument(
        '--ema',
        choices=['averaged', 'raw'],
        help='which weights to keep of a checkpoint that EMAHook wrote')
    parser.add_argument(
        '--safetensors',
        action='store_true',
        help='write a safetensors file; needs --config')
    parser.add_argument(
        '--config',
        help='config file or name, for the metadata of --safetensors')
    add_overwrite(parser, 'replace an existing file')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    from mmhier.checkpoints import publish_checkpoint_file

    path = publish_checkpoint_file(**arguments)
    print(f'wrote {path}: {os.path.getsize(path) / 1e6:.1f} MB')
