"""Convert an official checkpoint of HAT-Net, LIT or HVT.

The result starts a detector or segmentor through
`init_cfg=dict(type='Pretrained', checkpoint=TARGET)` of its backbone, and a
whole model through `load_from` or tools/test.py. The first eight digits of
its sha256 become part of its name, and are verified whenever it is loaded.

Examples:
    # Writes weights/hatnet-tiny-1a2b3c4d.pth (with other digits).
    python tools/convert_checkpoint.py HAT-Net_Tiny.pth weights/hatnet-tiny.pth
    # Finds it by the name without the hash.
    MMHIER_WEIGHTS=weights python tools/train.py CONFIG --cfg-options \\
        model.backbone.init_cfg.type=Pretrained \\
        model.backbone.init_cfg.checkpoint=hatnet-tiny.pth
"""
import argparse

from mmhier.apis import run_tool
from mmhier.checkpoints import convert_checkpoint_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'source', help="the authors' file: classifier, detector or segmentor")
    parser.add_argument(
        'target', help='the file to write; its hash is added to the name')
    parser.add_argument(
        '--min-matched',
        type=float,
        default=0.95,
        metavar='SHARE',
        help="share of the backbone's parameters that must be found; "
        'defaults to 0.95')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an existing file')
    arguments = parser.parse_args()
    path, report = convert_checkpoint_file(**vars(arguments))
    print(f'{report}\nwrote {path}')


if __name__ == '__main__':
    run_tool(main)
