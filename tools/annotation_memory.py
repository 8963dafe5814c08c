"""Measure the memory that annotations take in a training, and publish it.

Generates COCO-style annotations of train2017's size and trains a slim
detector on them for some iterations, by mmhier and by mmdet's runner alone.
Memory is the proportional set size of the main process and its workers, which
counts shared pages once, minus that of the same training on 200 images. The
serialized size is that of the array of bytes in which mmdet keeps annotations.
Needs Linux, 8 GB of memory and 15 minutes.

Examples:
    python tools/annotation_memory.py
    python tools/annotation_memory.py --num-images 2000 --page ''
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from mmhier.errors import MMHierError, run_tool
from mmhier.files import replace_at_marks, write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'training.md'
START, END = '<!-- annotation memory -->\n', '<!-- end -->'
NUM_IMAGES = 118_287
ANNOTATIONS_PER_IMAGE = 860_001 / NUM_IMAGES
NUM_SMALL = 200
NUM_CLASSES = 80
WIDTH, HEIGHT = 640, 480
MB = 1e6
CONFIG = '''
_base_ = {base!r}
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmhier.HATNet',
        arch=dict(
            embed_dims=(16, 16, 32, 32),
            depths=(1, 1, 1, 1),
            head_dim=16,
            expansions=(2, 2, 2, 2),
            kernel_sizes=(3, 3, 3, 3),
            grid_sizes=(8, 7, 7, 1),
            ds_ratios=(8, 4, 2, 1))),
    neck=dict(in_channels=[16, 16, 32, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1))
data_root = {root!r}
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='PackDetInputs')
]
train_dataloader = dict(
    batch_size=2,
    num_workers={workers},
    persistent_workers=True,
    dataset=dict(data_root=data_root, pipeline=pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=40, val_begin=1000)
param_scheduler = []
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type='StateHook', path={state!r})]
'''


@dataclass
class Memory:
    """Bytes that a training took, all processes together.

    Attributes:
        loading (int): Peak before the first iteration.
        training (int): Peak once every worker has loaded batches.
        serialized (int): Size of mmdet's serialized annotations.
    """
    loading: int
    training: int
    serialized: int


def generate(root: Path, num_images: int) -> None:
    """Write COCO-style annotations that share one image.

    Args:
        root (Path): Gets the layout of COCO.
        num_images (int): Of train2017, each with 7.3 annotations on average;
            val2017 has 4 % as many.
    """
    rng = np.random.default_rng(0)
    classes = _coco_classes()
    for split, count in ('train', num_images), ('val',
                                                max(num_images * 4 // 100, 4)):
        folder = root / f'{split}2017'
        folder.mkdir(parents=True)
        Image.new('RGB', (WIDTH, HEIGHT)).save(folder / '000000000001.jpg')
        images = [
            dict(
                id=i + 1,
                file_name='000000000001.jpg',
                width=WIDTH,
                height=HEIGHT,
                license=1,
                coco_url='http://images.cocodataset.org/000000000001.jpg')
            for i in range(count)
        ]
        number = round(count * ANNOTATIONS_PER_IMAGE)
        annotations = [
            _annotation(rng, i + 1, int(image))
            for i, image in enumerate(rng.integers(1, count + 1, number))
        ]
        path = root / 'annotations' / f'instances_{split}2017.json'
        path.parent.mkdir(exist_ok=True)
        categories = [
            dict(id=i + 1, name=name) for i, name in enumerate(classes)
        ]
        path.write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=categories)))


def _coco_classes() -> Sequence[str]:
    from mmdet.datasets import CocoDataset
    return CocoDataset.METAINFO['classes']


def _annotation(rng: np.random.Generator, number: int, image: int) -> dict:
    """An object whose outline has as many points as COCO's: 24 on average."""
    points = int(np.clip(rng.lognormal(3, 0.6), 4, 200))
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    center = rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60))
    outline = center + rng.uniform(8, 56) * np.stack(
        [np.cos(angles), np.sin(angles)], 1)
    low, high = outline.min(0), outline.max(0)
    width, height = np.maximum(high - low, 2)
    return dict(
        id=number,
        image_id=image,
        category_id=int(rng.integers(1, NUM_CLASSES + 1)),
        bbox=np.round([*low, width, height], 2).tolist(),
        area=round(float(width * height), 2),
        iscrowd=0,
        segmentation=[np.round(outline, 2).flatten().tolist()])


def train(package: str, config: str, state: str) -> None:
    """Train in this process, by mmhier or by mmdet's runner alone.

    Args:
        package (str): 'mmhier' or 'mmdet'.
        config (str): Config file.
        state (str): File that the serialized size is written to once all
            workers have loaded batches.
    """
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS
    from mmengine.runner import Runner

    @HOOKS.register_module()
    class StateHook(Hook):
        """Write the serialized size after some iterations."""

        def __init__(self, path: str):
            self.path = path

        def before_train_iter(self, runner: Runner, batch_idx: int,
                              data_batch: object) -> None:
            if runner.iter == 10:
                dataset = runner.train_dataloader.dataset
                write_text(
                    self.path,
                    str(dataset.data_bytes.nbytes +
                        dataset.data_address.nbytes))

    work_dir = str(Path(state).with_suffix(''))
    if package == 'mmhier':
        from mmhier import apis
        apis.train(config, work_dir=work_dir, from_scratch=True, seed=0)
        return
    from mmdet.utils import register_all_modules
    register_all_modules()
    cfg = Config.fromfile(config)
    cfg.work_dir = work_dir
    Runner.from_cfg(cfg).train()


def measure(package: str, root: Path, num_workers: int) -> Memory:
    """Train in a new process and watch its memory.

    Args:
        package (str): See :func:`train`.
        root (Path): Data of :func:`generate`.
        num_workers (int): Of the training dataloader.

    Returns:
        Memory: Of the whole training.

    Raises:
        MMHierError: If the training fails.
    """
    state = root / f'{package}.state'
    config = root / f'{package}.py'
    base = ROOT / 'configs/hatnet/retinanet_hatnet-tiny_fpn_1x_coco.py'
    config.write_text(
        CONFIG.format(
            base=str(base),
            root=f'{root}/',
            workers=num_workers,
            state=str(state)))
    log = root / f'{package}.log'
    with log.open('w') as output:
        process = subprocess.Popen(
            [sys.executable, __file__, '--train', package, config, state],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS='1'))
    peaks = {False: 0, True: 0}
    watch = threading.Thread(
        target=_watch, args=(process, state, peaks), daemon=True)
    watch.start()
    status = process.wait()
    watch.join()
    if status:
        raise MMHierError(f'training by {package} failed:\n' +
                          log.read_text()[-2000:])
    return Memory(peaks[False], peaks[True], int(state.read_text()))


def _watch(process: subprocess.Popen, state: Path, peaks: dict[bool,
                                                               int]) -> None:
    """Keep the largest memory before and after a state file appears."""
    while process.poll() is None:
        is_training = state.exists()
        peaks[is_training] = max(peaks[is_training], tree_memory(process.pid))
        time.sleep(0.3)


def tree_memory(pid: int) -> int:
    """Proportional set size of a process and its children, in bytes."""
    total = 0
    try:
        found = Path(f'/proc/{pid}/smaps_rollup').read_text()
        total += 1024 * int(re.search(r'^Pss: +(\d+)', found, re.MULTILINE)[1])
        for task in Path(f'/proc/{pid}/task').iterdir():
            for child in (task / 'children').read_text().split():
                total += tree_memory(int(child))
    except (FileNotFoundError, ProcessLookupError, TypeError):
        pass  # the process has ended
    return total


def measure_all(packages: Sequence[str], num_images: int,
                num_workers: int) -> dict[str, Memory]:
    """Memory of the annotations by package, without the rest of a training.

    Args:
        packages (Sequence[str]): Some of 'mmhier' and 'mmdet'.
        num_images (int): Of the training set.
        num_workers (int): Of the training dataloader.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, 'large'), Path(folder, 'small')
        generate(large, num_images)
        generate(small, NUM_SMALL)
        for package in packages:
            rest = measure(package, small, num_workers)
            whole = measure(package, large, num_workers)
            found[package] = Memory(whole.loading - rest.loading,
                                    whole.training - rest.training,
                                    whole.serialized)
            print(package, found[package], flush=True)
    return found


def table(found: dict[str, Memory], num_images: int, num_workers: int) -> str:
    """Markdown of the memory by package."""
    lines = [
        f'{num_images:,} images, {round(num_images * ANNOTATIONS_PER_IMAGE):,} '
        f'annotations, {num_workers} workers, all processes together:\n',
        '| | peak of loading, MB | peak in training, MB | serialized, MB | '
        'training / serialized |', '|---|---|---|---|---|'
    ]
    for package, memory in found.items():
        lines.append(
            f'| {package} | {memory.loading / MB:.0f} | '
            f'{memory.training / MB:.0f} | {memory.serialized / MB:.0f} | '
            f'{memory.training / memory.serialized:.2f} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--num-images',
        type=int,
        default=NUM_IMAGES,
        help=f'defaults to {NUM_IMAGES}')
    parser.add_argument(
        '--num-workers', type=int, default=4, help='defaults to 4')
    parser.add_argument(
        '--packages',
        nargs='+',
        choices=['mmhier', 'mmdet'],
        default=['mmhier', 'mmdet'],
        help='runners to measure; defaults to both')
    parser.add_argument(
        '--page',
        default=str(PAGE),
        help="page that gets the table; '' for none. Defaults to "
        'docs/training.md')
    parser.add_argument('--train', nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(*arguments.train)
        return
    found = measure_all(arguments.packages, arguments.num_images,
                        arguments.num_workers)
    text = table(found, arguments.num_images, arguments.num_workers)
    print(text)
    if arguments.page:
        page = Path(arguments.page).read_text()
        write_text(arguments.page,
                   replace_at_marks(page, START, END, text, arguments.page))


if __name__ == '__main__':
    run_tool(main)
