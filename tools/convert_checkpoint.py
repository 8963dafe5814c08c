"""Convert an official checkpoint of HAT-Net, LIT or HVT.

The result starts a detector or segmentor through
`init_cfg=dict(type='Pretrained', checkpoint=TARGET)` of its backbone, and a
whole model through `load_from` or tools/test.py.

Example:
    python tools/convert_checkpoint.py HAT-Net_Tiny.pth hatnet-tiny.pth
"""
import argparse

from mmhier.apis import run_tool
from mmhier.apis.errors import mistakes_as_user_errors
from mmhier.checkpoints import convert_checkpoint_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Convert an official checkpoint of HAT-Net, LIT or HVT: '
        'a classifier, detector or segmentor.')
    parser.add_argument('source', help="the authors' file")
    parser.add_argument('target', help='the file to write')
    parser.add_argument(
        '--min-matched',
        type=float,
        default=0.95,
        metavar='SHARE',
        help="share of the backbone's parameters that must be found; "
        'defaults to 0.95')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace an existing target')
    arguments = parser.parse_args()
    with mistakes_as_user_errors():
        report = convert_checkpoint_file(**vars(arguments))
    print(f'{report}\nwrote {arguments.target}')


if __name__ == '__main__':
    run_tool(main)
