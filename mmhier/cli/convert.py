"""Convert an authors' checkpoint of HAT-Net, LIT, LITv2 or HVT.

The result initializes the backbone of a detector or segmentor through
`init_cfg=dict(type='Pretrained', checkpoint=TARGET)`, and a whole model
through `load_from` or `mmhier test`. The first eight digits of its sha256
become part of its name and are verified on loading.

Examples:
    # Writes weights/hatnet-tiny-1a2b3c4d.pth (with other digits).
    mmhier convert HAT-Net_Tiny.pth weights/hatnet-tiny.pth
    # Finds it by the name without the hash.
    MMHIER_WEIGHTS=weights mmhier train CONFIG --cfg-options \\
        model.backbone.init_cfg.type=Pretrained \\
        model.backbone.init_cfg.checkpoint=hatnet-tiny.pth
"""
import argparse
from collections.abc import Sequence

from .arguments import add_overwrite, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('convert', __doc__)
    parser.add_argument(
        'source', help="the authors' file: classifier, detector or segmentor")
    parser.add_argument(
        'target', help='file to write; its hash is added to the name')
    parser.add_argument(
        '--min-matched',
        type=float,
        default=0.95,
        metavar='SHARE',
        help="share of the backbone's parameters that must be found; "
        'defaults to 0.95')
    add_overwrite(parser, 'replace an existing file')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = vars(parser().parse_args(argv))
    from mmhier.checkpoints import convert_checkpoint_file

    path, report = convert_checkpoint_file(**arguments)
    print(f'{report}\nwrote {path}')
