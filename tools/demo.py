"""Draw the shapes set, train a small Mask R-CNN with HAT-Net on it, evaluate.

What is finished is reused, and an interrupted training is resumed, so the
same command can be given again at any time. Ends with exit status 1 if the
average precision is lower than this recipe reaches.

Example:
    python tools/demo.py
"""
import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import DictAction
from pycocotools.coco import COCO
from mmhier.apis import MMHierError, load_config, run_tool, test, train
from mmhier.datasets import generate_shapes
from mmhier.files import write_text

CONFIG = (
    Path(__file__).resolve().parents[1] /
    'configs/demo/mask-rcnn_hatnet-demo_shapes.py')
LOWEST_AP = dict(bbox=0.55, segm=0.50)
NUM_PICTURES = 24
NUM_ON_SHEET = 8
SCORE_THRESHOLD = 0.5
# BGR, one a class.
COLOURS = ((60, 160, 255), (80, 200, 80), (255, 150, 60), (220, 90, 220),
           (60, 220, 240), (90, 90, 240))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help=f'override keys of {CONFIG.name}')
    args = parser.parse_args()

    draw_data(args.data_root, args.num_train, args.num_val)
    run = Run(args.work_dir, args.data_root, args.cfg_options)
    run.check_settings()
    try:
        run.train()
        metrics = run.evaluate()
    except KeyboardInterrupt:
        print('\nInterrupted. Give the same command again to go on.')
        sys.exit(130)
    print_ap_table(metrics)
    print(f'Ground truth (left) beside predictions: {run.sheet}')
    shortfalls = find_shortfalls(metrics)
    if shortfalls:
        sys.exit(f'error: {"; ".join(shortfalls)}')


def say(step: int, message: str) -> None:
    print(f'\n[demo {step}/3] {message}', flush=True)


def draw_data(data_root: str, num_train: int, num_val: int) -> None:
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
        self.work_dir = Path(work_dir)
        self.data_root = Path(data_root)
        self.cfg_options = cfg_options
        self.sheet = self.work_dir / 'sheet.png'
        self.result = self.work_dir / 'result.json'
        self.arguments = dict(
            config=str(CONFIG), work_dir=work_dir, data_root=data_root)
        self.cfg = load_config(
            str(CONFIG),
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
        if self.checkpoint.exists():
            say(2, f'Training: finished before, {self.checkpoint} is reused.')
            return
        last = self.work_dir / 'last_checkpoint'
        say(
            2, 'Training: resumed from ' + Path(last.read_text()).name + '.'
            if last.exists() else 'Training: started; `eta` is the time left.')
        start = time.time()
        # The evaluation that follows is the validation.
        train(
            **self.arguments,
            cfg_options=self.cfg_options,
            resume='auto',
            no_validate=True)
        print(f'Training took {minutes(time.time() - start)}.')

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
        start = time.time()
        prefix = self.work_dir / 'predictions'
        coco_metrics = test(
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
        print(f'Evaluation took {minutes(time.time() - start)}.')
        return metrics


def minutes(seconds: float) -> str:
    return f'{seconds // 60:.0f} min {seconds % 60:.0f} s'


def print_ap_table(metrics: dict) -> None:
    """Print AP by kind; small is below 32 x 32 pixels, medium above."""
    names = list(metrics['bbox'])
    print(f'\n{"":6}' + ''.join(f'{name:>8}' for name in names))
    for kind, values in metrics.items():
        print(f'{kind:6}' + ''.join(f'{values[name]:8.3f}' for name in names))
    print()


def find_shortfalls(metrics: dict) -> list:
    """A line on every AP that is lower than this recipe reaches."""
    return [
        f'{kind} AP {metrics[kind]["AP"]:.3f} is lower than {lowest:.2f}'
        for kind, lowest in LOWEST_AP.items() if metrics[kind]['AP'] < lowest
    ]


def draw_pictures(data_root: Path, predictions: str, sheet: Path) -> None:
    """Draw the first validation pictures that are not empty, and a sheet."""
    truth = COCO(str(data_root / 'annotations/instances_val2017.json'))
    with open(predictions) as file:
        found = [
            result for result in json.load(file)
            if result['score'] >= SCORE_THRESHOLD
        ]
    by_image = {image_id: [] for image_id in truth.imgs}
    for result in found:
        by_image[result['image_id']].append(result)

    pairs = []
    folder = sheet.parent / 'pictures'
    folder.mkdir(exist_ok=True)
    for image_id in sorted(set(truth.imgs) & set(truth.imgToAnns)):
        info = truth.imgs[image_id]
        image = cv2.imread(str(data_root / 'val2017' / info['file_name']))
        pairs.append(
            np.hstack([
                draw_instances(image, 'ground truth', truth,
                               truth.imgToAnns[image_id]),
                draw_instances(image, f'score >= {SCORE_THRESHOLD}', truth,
                               by_image[image_id])
            ]))
        cv2.imwrite(
            str(folder / Path(info['file_name']).with_suffix('.png')),
            pairs[-1])
        if len(pairs) == NUM_PICTURES:
            break
    shown = pairs[:NUM_ON_SHEET]
    if len(shown) % 2:
        shown.append(np.full_like(shown[0], 255))
    rows = [np.hstack(shown[i:i + 2]) for i in range(0, len(shown), 2)]
    cv2.imwrite(str(sheet), np.vstack(rows))


def draw_instances(image: np.ndarray, caption: str, coco: COCO,
                   instances: list) -> np.ndarray:
    """Picture at twice its size with masks, boxes, classes and scores."""
    canvas = cv2.resize(image, None, fx=2, fy=2)
    for instance in instances:
        colour = COLOURS[instance['category_id'] - 1]
        mask = coco.annToMask(instance).repeat(2, 0).repeat(2, 1)
        inside = mask.astype(bool)
        canvas[inside] = 0.5 * canvas[inside] + 0.5 * np.array(colour)
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST,
                                       cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, 2)
        x, y, width, height = (round(2 * value) for value in instance['bbox'])
        cv2.rectangle(canvas, (x, y), (x + width, y + height), colour, 1)
    # Above all masks.
    for instance in instances:
        label = coco.cats[instance['category_id']]['name']
        if instance.get('iscrowd'):
            label = f'crowd: {label}'
        if 'score' in instance:
            label += f' {instance["score"]:.2f}'
        x, y = (round(2 * value) for value in instance['bbox'][:2])
        write_label(canvas, label, x, y, COLOURS[instance['category_id'] - 1])
    canvas = cv2.copyMakeBorder(
        canvas, 20, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    write_label(canvas, caption, 4, 16, (255, 255, 255))
    return canvas


def write_label(canvas: np.ndarray, label: str, x: int, y: int,
                colour: tuple) -> None:
    """Black text on a coloured strip above a point, kept in the picture."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), _ = cv2.getTextSize(label, font, 0.4, 1)
    x = max(0, min(x, canvas.shape[1] - width - 4))
    y = max(height + 4, y)
    cv2.rectangle(canvas, (x, y - height - 4), (x + width + 3, y), colour, -1)
    cv2.putText(canvas, label, (x + 2, y - 3), font, 0.4, (0, 0, 0), 1,
                cv2.LINE_AA)


if __name__ == '__main__':
    run_tool(main)
