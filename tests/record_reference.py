"""Record the reference losses, gradient norms and evaluation results.

``tests/data/reference`` holds five training configs of 20 iterations. A JSON
file beside each holds its curves and how much rounding moves them;
``coco.json`` and ``iou.json`` hold the results of fixed predictions, and
``record.json`` the commit, the data and the environment of the record. At that
commit, 8c978f2, the demo configs give the same curves to the last bit. Record
anew only after an intended change of behaviour, or for another environment:

    OMP_NUM_THREADS=1 python -m tests.record_reference
"""
import json
import subprocess
import tempfile
from pathlib import Path

import cv2
import mmcv
import mmdet
import mmengine
import mmpretrain
import mmseg
import numpy as np
import torch
import torchvision
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from pycocotools.coco import COCO
from mmhier import apis
from mmhier.datasets import generate_shapes
from mmhier.datasets.shapes import SHAPE_CLASSES, content_hash

FOLDER = Path(__file__).parent / 'data' / 'reference'
CONFIGS = tuple(sorted(path.stem for path in FOLDER.glob('*.py')))
BACKENDS = ('pycocotools', 'faster')
NUM_PERTURBED = 4


@HOOKS.register_module()
class PerturbWeightsHook(Hook):
    """Move initial weights by up to one unit in the last place.

    Args:
        seed (int): Seed of the signs.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        for weight in runner.model.parameters():
            sign = torch.randint(-1, 2, weight.shape, generator=self.generator)
            weight *= 1 + torch.finfo(weight.dtype).eps * sign


def environment() -> dict:
    """Versions and hardware features that results depend on."""
    packages = (torch, torchvision, np, cv2, mmengine, mmcv, mmdet, mmseg,
                mmpretrain)
    return dict(
        # Without the kind of build, such as +cpu.
        {p.__name__: p.__version__.split('+')[0]
         for p in packages},
        device=get_device(),
        cpu_capability=torch.backends.cpu.get_cpu_capability())


def draw_data(root: Path) -> str:
    """Generate the shapes and return the hash of their files."""
    generate_shapes(root, num_train=64, num_val=32)
    return content_hash(root)


def train_curves(config: str, data_root: Path, work_dir: Path,
                 **cfg_options) -> dict:
    """Loss, its parts and the gradient norm at every iteration.

    Args:
        config (str): A name out of CONFIGS.
        data_root (Path): Root of the shapes.
        work_dir (Path): Empty folder.
        **cfg_options: Values that replace those of the config.

    Returns:
        dict[str, list[float]]: Curves by name.
    """
    torch.set_num_threads(1)
    runner = apis.train(
        str(FOLDER / f'{config}.py'),
        data_root=str(data_root),
        work_dir=str(work_dir),
        cfg_options=cfg_options)
    return {
        name.removeprefix('train/'): buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'loss' in name or name == 'train/grad_norm'
    }


def train_record(config: str, data_root: Path, work_dir: Path) -> dict:
    """Curves, and their sensitivity to rounding.

    Returns:
        dict[str, dict]: By name, the ``values``, and as ``rounding`` the
        largest relative change up to each iteration among runs with perturbed
        weights.
    """
    curves = train_curves(config, data_root, work_dir / 'exact')
    perturbed = [
        train_curves(
            config,
            data_root,
            work_dir / str(seed),
            custom_hooks=[dict(type='PerturbWeightsHook', seed=seed)])
        for seed in range(NUM_PERTURBED)
    ]
    record = {}
    for name, values in curves.items():
        changes = np.array([run[name] for run in perturbed]) / values - 1
        rounding = np.maximum.accumulate(np.abs(changes).max(0))
        record[name] = dict(
            values=values, rounding=[float(f'{x:.1e}') for x in rounding])
    return record


def coco_metrics(data_root: Path, backend: str) -> dict:
    """Results of mmhier.CocoMetric on detections that are often wrong."""
    ann_file = str(data_root / 'annotations/instances_val2017.json')
    coco = COCO(ann_file)
    rng = np.random.default_rng(0)
    samples = [
        dict(
            img_id=image_id,
            ori_shape=(image['height'], image['width']),
            pred_instances=_detections(coco, image, rng))
        for image_id, image in sorted(coco.imgs.items())
    ]
    init_default_scope('mmdet')
    evaluator = Evaluator(
        dict(
            type='mmhier.CocoMetric',
            ann_file=ann_file,
            metric=['bbox', 'segm', 'proposal'],
            proposal_nums=(1, 10, 100),
            classwise=True,
            backend=backend))
    evaluator.dataset_meta = dict(classes=SHAPE_CLASSES)
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def _detections(coco: COCO, image: dict, rng: np.random.Generator) -> dict:
    """Shifted objects with misses, wrong labels, repeats, false alarms."""
    boxes, labels, masks = [], [], []
    for annotation in coco.imgToAnns[image['id']]:
        x, y, width, height = annotation['bbox']
        label = annotation['category_id'] - 1
        mask = coco.annToMask(annotation)
        # Several objects of a crowd, about an object in six not at all.
        crowd = annotation['iscrowd']
        for _ in range(4 if crowd else rng.choice([0, 1, 1, 1, 1, 2])):
            size = np.array([width, height]) * (0.3 if crowd else 1)
            start = (x, y) + rng.random(2) * ((width, height) - size)
            box = np.concatenate([start, start + size])
            boxes.append(box + rng.normal(0, 0.06 * size.mean(), 4))
            labels.append(rng.choice([label] * 6 + [rng.integers(6)]))
            masks.append(np.roll(mask, rng.integers(-3, 4, 2), (0, 1)))
    for _ in range(rng.integers(3)):
        x, y = rng.integers(0, 120, 2)
        width, height = rng.integers(10, 70, 2)
        boxes.append(np.array([x, y, x + width, y + height]))
        labels.append(rng.integers(6))
        masks.append(np.zeros((image['height'], image['width']), np.uint8))
        masks[-1][y:y + height, x:x + width] = 1
    shape = (-1, image['height'], image['width'])
    return dict(
        bboxes=torch.tensor(np.array(boxes)).float().reshape(-1, 4),
        labels=torch.tensor(np.array(labels)).long(),
        scores=torch.tensor(rng.random(len(boxes))).float(),
        masks=torch.tensor(np.array(masks)).bool().reshape(shape))


def iou_metrics(data_root: Path) -> dict:
    """Results of mmseg's IoUMetric on noisy maps, exact ones by class too."""
    rng = np.random.default_rng(0)
    samples = []
    for path in sorted((data_root / 'annotations/validation').iterdir()):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int64)
        found = np.roll(truth, rng.integers(-6, 7, 2), (0, 1))
        # One class is taken for another; single pixels are wrong.
        found[found == rng.integers(7)] = rng.integers(7)
        wrong = rng.random(found.shape) < 0.05
        found[wrong] = rng.integers(0, 7, wrong.sum())
        truth[rng.random(truth.shape) < 0.1] = 255
        samples.append(
            dict(
                gt_sem_seg=dict(data=torch.from_numpy(truth)[None]),
                pred_sem_seg=dict(data=torch.from_numpy(found)[None])))
    init_default_scope('mmseg')
    evaluator = Evaluator(
        dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice', 'mFscore']))
    evaluator.dataset_meta = dict(classes=('other', *SHAPE_CLASSES))
    evaluator.process(samples)
    metric, = evaluator.metrics
    areas = [sum(per_image) for per_image in zip(*metric.results)]
    exact = metric.total_area_to_metrics(*areas, metric.metrics)
    # Rounded to two digits of a percentage.
    rounded = evaluator.evaluate(len(samples))
    return {
        **{
            name: float(value)
            for name, value in rounded.items()
        },
        **{
            f'exact {name}': value.tolist()
            for name, value in exact.items()
        }
    }


def read(name: str) -> dict:
    """Content of a file of the record."""
    return json.loads((FOLDER / f'{name}.json').read_text())


def write(name: str, content: dict) -> None:
    """Write a file of the record, a line an entry."""
    lines = (f'  {json.dumps(key)}: {json.dumps(value)}'
             for key, value in content.items())
    text = '{\n' + ',\n'.join(lines) + '\n}\n'
    (FOLDER / f'{name}.json').write_text(text)


def main() -> None:
    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--exclude=*'],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch:
        data_root = Path(scratch) / 'shapes'
        write(
            'record',
            dict(
                commit=commit,
                data_sha256=draw_data(data_root),
                environment=environment()))
        results = [coco_metrics(data_root, backend) for backend in BACKENDS]
        np.testing.assert_equal(*results)
        write('coco', results[0])
        write('iou', iou_metrics(data_root))
        for config in CONFIGS:
            write(config, train_record(config, data_root,
                                       Path(scratch) / config))


if __name__ == '__main__':
    main()
