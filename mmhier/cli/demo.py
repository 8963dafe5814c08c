"""Generate a data set, train a small Mask R-CNN with HAT-Net, evaluate it.

Then predict a photo by a Mask R-CNN with LIT and its official weights, if they
can be downloaded. Finished steps are reused and an interrupted
training is resumed: repeat the command at any time. Ends with exit status 1
if the average precision is lower than this recipe reaches.

Example:
    mmhier demo
"""
import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmhier.errors import MMHierError
from mmhier.files import make_writable, write_text
from mmhier.zoo import config_path
from .arguments import add_cfg_options, command_parser

CONFIG = 'mask-rcnn_hatnet-demo_shapes'
LOWEST_AP = dict(bbox=0.55, segm=0.50)
TRAINED = 'mask-rcnn_lit-small_fpn_1x_coco'
# "Coffee" of scikit-image, by Rachel Michetti: CC0.
PHOTO = Path(__file__).parents[1] / 'visualization' / 'coffee.jpg'


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('demo', __doc__)
    parser.add_argument(
        '--data-root',
        default='data/shapes',
        help='where the set is, or will be; defaults to data/shapes')
    parser.add_argument(
        '--work-dir',
        default='work_dirs/demo',
        help='where checkpoints, logs, AP and pictures go; defaults to '
        'work_dirs/demo')
    parser.add_argument(
        '--num-train',
        type=int,
        default=800,
        help='training pictures; defaults to 800')
    parser.add_argument(
        '--num-val',
        type=int,
        default=160,
        help='validation pictures; defaults to 160')
    add_cfg_options(parser, default={})
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parser().parse_args(argv)
    make_writable('--work-dir', args.work_dir)
    draw_data(args.data_root, args.num_train, args.num_val)
    run = Run(args.work_dir, args.data_root, args.cfg_options)
    run.check_settings()
    try:
        run.train()
        metrics = run.evaluate()
    except KeyboardInterrupt:
        print('\nInterrupted. Repeat the command to resume.')
        sys.exit(130)
    print_ap_table(metrics)
    print(f'Ground truth (left) beside predictions: {run.sheet}')
    predict_photo(Path(args.work_dir, 'photo'))
    shortfalls = find_shortfalls(metrics)
    if shortfalls:
        sys.exit(f'error: {"; ".join(shortfalls)}')


def say(step: int, message: str) -> None:
    """Print the heading of one of the four steps."""
    print(f'\n[demo {step}/4] {message}', flush=True)


def draw_data(data_root: str, num_train: int, num_val: int) -> None:
    """Generate the set, unless it is there."""
    from mmhier.datasets import generate_shapes
    start = time.time()
    try:
        is_new = generate_shapes(data_root, num_train, num_val)
    except (ValueError, OSError) as error:
        raise MMHierError(str(error)) from error
    how = f'drawn in {time.time() - start:.0f} s' if is_new else 'reused'
    say(1, f'Data: {num_train} + {num_val} pictures in {data_root}, '
        f'{how}.')


class Run:
    """Training and evaluation in a work dir, each done once."""

    def __init__(self, work_dir: str, data_root: str,
                 cfg_options: dict) -> None:
        from mmhier import apis
        config = config_path(CONFIG)
        self.work_dir = Path(work_dir)
        self.data_root = Path(data_root)
        self.cfg_options = cfg_options
        self.sheet = self.work_dir / 'sheet.png'
        self.result = self.work_dir / 'result.json'
        self.arguments: dict[str, Any] = dict(
            config=config, work_dir=work_dir, data_root=data_root)
        self.cfg = apis.load_config(
            config,
            work_dir=work_dir,
            data_root=data_root,
            cfg_options=cfg_options)
        max_iters = self.cfg.train_cfg.max_iters
        self.checkpoint = self.work_dir / f'iter_{max_iters}.pth'

    def check_settings(self) -> None:
        """Refuse a work dir that was filled with other data or settings."""
        manifest = json.loads((self.data_root / 'shapes.json').read_text())
        config = hashlib.sha256(self.cfg.pretty_text.encode()).hexdigest()
        settings = json.dumps(dict(data=manifest['sha256'], config=config))
        path = self.work_dir / 'settings.json'
        if not path.exists() and not any(self.work_dir.iterdir()):
            write_text(path, settings)
        if not path.exists() or path.read_text() != settings:
            raise MMHierError(
                f'{self.work_dir} holds something else than the demo with '
                'this data and these settings: delete it or choose another '
                '--work-dir')

    def train(self) -> None:
        """Train, or resume an interrupted training."""
        if self.checkpoint.exists():
            say(2, f'Training: finished before, {self.checkpoint} is reused.')
            return
        last = self.work_dir / 'last_checkpoint'
        say(
            2, 'Training: resumed from ' + Path(last.read_text()).name + '.'
            if last.exists() else 'Training: started; `eta` is the time left.')
        watch = Watch()
        from mmhier import apis

        # The evaluation that follows is the validation.
        apis.train(
            **self.arguments,
            cfg_options=self.cfg_options,
            resume='auto',
            no_validate=True)
        print(f'Training took {watch}.')

    def evaluate(self) -> dict:
        """AP of boxes and masks; pictures are drawn on the way.

        Returns:
            dict[str, dict[str, float]]: By 'bbox' and 'segm', then by name
            as in :func:`print_ap_table`.
        """
        if self.result.exists():
            say(3, f'Evaluation: finished before, {self.result} is reused.')
            return json.loads(self.result.read_text())
        say(3, 'Evaluation: started.')
        watch = Watch()
        prefix = self.work_dir / 'predictions'
        from mmhier import apis
        from mmhier.visualization.comparison import draw_pictures
        coco_metrics = apis.test(
            **self.arguments,
            checkpoint=str(self.checkpoint),
            cfg_options={
                **self.cfg_options, 'test_evaluator.outfile_prefix': str(prefix)
            })
        names = dict(
            AP='mAP',
            AP50='mAP_50',
            AP75='mAP_75',
            small='mAP_s',
            medium='mAP_m')
        metrics = {
            kind: {
                name: coco_metrics[f'coco/{kind}_{key}']
                for name, key in names.items()
            }
            for kind in LOWEST_AP
        }
        draw_pictures(self.data_root, f'{prefix}.segm.json', self.sheet)
        write_text(self.result, json.dumps(metrics, indent=2))
        print(f'Evaluation took {watch}.')
        return metrics


class Watch:
    """Wall time and CPU time of all threads since construction."""

    def __init__(self) -> None:
        self.start = time.time(), time.process_time()

    def __str__(self) -> str:
        seconds = time.time() - self.start[0]
        busy = time.process_time() - self.start[1]
        return (f'{seconds // 60:.0f} min {seconds % 60:.0f} s, '
                f'{busy / 60:.1f} core-minutes')


def predict_photo(out_dir: Path) -> None:
    """Draw the predictions of a detector with its official weights."""
    picture = out_dir / 'pictures' / PHOTO.name
    if picture.exists():
        say(4, f'Photo: predicted before, {picture} is reused.')
        return
    say(4, f'Photo: {TRAINED} with its official weights.')
    from mmhier import apis
    from mmhier.checkpoints.fetching import UnreachableError
    try:
        apis.infer(TRAINED, 'official', str(PHOTO), out_dir=str(out_dir))
    except UnreachableError:
        print('The weights cannot be fetched here; with a network: mmhier '
              f'infer {TRAINED} {PHOTO}')
        return
    print(f'Predictions: {picture}')


def print_ap_table(metrics: dict) -> None:
    """Print AP by kind; small is below 32 x 32 pixels, medium above."""
    names = list(metrics['bbox'])
    print(f'\n{"":6}' + ''.join(f'{name:>8}' for name in names))
    for kind, values in metrics.items():
        print(f'{kind:6}' + ''.join(f'{values[name]:8.3f}' for name in names))
    print()


def find_shortfalls(metrics: dict) -> list[str]:
    """Describe every AP below the lowest that this recipe reaches."""
    return [
        f'{kind} AP {metrics[kind]["AP"]:.3f} is lower than {lowest:.2f}'
        for kind, lowest in LOWEST_AP.items() if metrics[kind]['AP'] < lowest
    ]
