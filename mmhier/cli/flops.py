"""Count parameters and multiply-adds of the model of a config, by module.

Counts convolutions, linear layers and matrix products, attention included,
for one image; box heads see 1000 proposals, mask heads 100.

Example:
    mmhier flops configs/lit/retinanet_lit-small_fpn_1x_coco.py \\
        --shape 800 1280
"""
import argparse
import os
import tempfile
from collections.abc import Sequence

from mmhier.errors import MMHierError
from .arguments import add_cfg_options, add_config, command_parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('flops', __doc__)
    add_config(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='height and width, or one side of a square; defaults to 800 1280 '
        'for detectors, 512 for segmentors, 224 for classifiers')
    parser.add_argument(
        '--depth',
        type=int,
        default=2,
        help='levels of modules to list; defaults to 2')
    add_cfg_options(parser)
    return parser


def input_size(shape: list[int] | None, scope: str | None) -> tuple[int, int]:
    """Height and width as asked for, else the usual ones of the task.

    Raises:
        MMHierError: If `shape` is no size or too small for the backbones.
    """
    from mmhier.models.backbones.base import MIN_INPUT_SIZE
    if shape is None:
        usual = dict(mmdet=(800, 1280), mmseg=(512, 512))
        return usual.get(scope or '', (224, 224))
    if len(shape) > 2 or min(shape) < MIN_INPUT_SIZE:
        raise MMHierError(f'--shape {" ".join(map(str, shape))}: expected one '
                          f'or two numbers of at least {MIN_INPUT_SIZE} pixels')
    return (shape[0], shape[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    from mmhier.analysis import count_config_complexity
    from mmhier.apis import load_config
    from mmhier.engine.config_errors import naming_config_errors

    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            arguments.config,
            work_dir=os.path.join(folder, 'work'),
            cfg_options=arguments.cfg_options)
    if 'model' not in cfg:
        raise MMHierError(f'{arguments.config} has no model')
    size = input_size(arguments.shape, cfg.get('default_scope'))
    with naming_config_errors(cfg):
        cost = count_config_complexity(cfg, size)
    print(f'{"module":<40}{"parameters":>14}{"multiply-adds":>18}')
    for name, params in cost.params_by_module.items():
        macs = cost.macs_by_module[name]
        if (params or macs) and name.count('.') < arguments.depth:
            print(f'{name:<40}{params / 1e6:>12.3f} M{macs / 1e9:>16.3f} G')
    print(f'{size[0]}x{size[1]}: {cost.params / 1e6:.2f} M parameters, '
          f'{cost.macs / 1e9:.2f} G multiply-adds')
