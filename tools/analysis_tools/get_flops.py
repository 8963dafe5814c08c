"""Parameters and multiply-adds of the model of a config, part by part.

Counted are convolutions, linear layers and matrix products, attention
included, for one image; box heads see 1000 proposals, mask heads 100.

Example:
    python tools/analysis_tools/get_flops.py \\
        configs/lit/retinanet_lit-small_fpn_1x_coco.py --shape 800 1280
"""
import argparse
import os
import tempfile

from mmengine.config import DictAction
from mmhier.analysis import count_config_complexity
from mmhier.apis import MMHierError, load_config, run_tool
from mmhier.engine.config_errors import naming_config_errors
from mmhier.models.backbones.base import MIN_INPUT_SIZE


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='of mmdet, mmseg or mmpretrain')
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    return parser.parse_args()


def input_size(shape, scope) -> tuple:
    """Height and width as asked for, else the usual ones of the task."""
    if shape is None:
        usual = dict(mmdet=(800, 1280), mmseg=(512, 512))
        return usual.get(scope, (224, 224))
    if len(shape) > 2 or min(shape) < MIN_INPUT_SIZE:
        raise MMHierError(f'--shape {" ".join(map(str, shape))}: expected one '
                          f'or two numbers of at least {MIN_INPUT_SIZE} pixels')
    return (shape[0], shape[-1])


def main() -> None:
    arguments = parse_args()
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


if __name__ == '__main__':
    run_tool(main)
