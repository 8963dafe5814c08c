"""Make a checkpoint of training fit for others: weights and classes only.

Optimizer, schedules and message hub go, which is half of the file or more.
The first eight digits of its sha256 become part of the new file's name, and
are verified whenever it is loaded.

Examples:
    # Writes hatnet-tiny-coco-1a2b3c4d.pth (with other digits).
    python tools/publish_model.py work_dirs/mask-rcnn/epoch_12.pth \\
        hatnet-tiny-coco.pth
    # A checkpoint of training with EMAHook holds two sets of weights.
    python tools/publish_model.py work_dirs/lit/epoch_300.pth lit-tiny.pth \\
        --ema averaged
"""
import argparse
import os

from mmhier.apis import run_tool
from mmhier.checkpoints import publish_checkpoint_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='a checkpoint that training wrote')
    parser.add_argument(
        'target', help='the file to write; its hash is added to the name')
    parser.add_argument(
        '--ema',
        choices=['averaged', 'raw'],
        help='which weights to keep of a checkpoint that EMAHook wrote')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an existing file')
    arguments = parser.parse_args()
    path = publish_checkpoint_file(**vars(arguments))
    print(f'wrote {path}: {os.path.getsize(path) / 1e6:.1f} MB')


if __name__ == '__main__':
    run_tool(main)
