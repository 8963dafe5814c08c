"""Each head learns the generated shapes, from random weights.

The bars are in the configs: ``lowest_metrics``. tools/demo.py holds that of
Mask R-CNN.
"""
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmhier import apis
from mmhier.datasets import generate_shapes

FOLDER = Path(__file__).parents[1] / 'configs/demo'
DETECTORS = ('retinanet_lit-demo_fpn_shapes.py',
             'dino-4scale_lit-demo_shapes.py',
             'mask2former_hatnet-demo_shapes.py')
SEGMENTORS = ('upernet_accvit-demo_shapes.py',
              'semantic-fpn_hatnet-demo_shapes.py',
              'semantic-fpn_litv2-demo_shapes.py',
              'mask2former_litv2-demo_shapes.py')
CLASSIFIER = 'hvt-demo_shapes.py'
NAMES = (*DETECTORS, *SEGMENTORS, CLASSIFIER)


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root)
    return root


def bars(name: str) -> dict:
    """Lowest values of the metrics of a config."""
    return Config.fromfile(FOLDER / name).lowest_metrics


def train(name: str,
          data_root: Path,
          work_dir: Path,
          options: dict | None = None,
          **settings) -> dict:
    """Arguments of apis.test for the checkpoint that training leaves."""
    arguments = dict(
        config=str(FOLDER / name),
        data_root=str(data_root),
        work_dir=str(work_dir),
        cfg_options=options)
    apis.train(no_validate=True, **arguments, **settings)
    checkpoint, = work_dir.glob('iter_*.pth')
    return dict(arguments, checkpoint=str(checkpoint))


@pytest.mark.zoo
@pytest.mark.parametrize('name', NAMES)
def test_learns(name, shapes_root, tmp_path):
    """And tests as well in bfloat16: within 0.002, 0.2 of percent."""
    trained = train(name, shapes_root, tmp_path)
    metrics = apis.test(**trained)
    for key, lowest in bars(name).items():
        assert metrics[key] >= lowest
    half = apis.test(amp_dtype='bfloat16', **trained)
    for key in bars(name):
        scale = 1 if key.startswith('coco/') else 100
        assert half[key] == pytest.approx(metrics[key], abs=0.002 * scale)


@pytest.mark.zoo
def test_learns_in_bfloat16_as_in_float32(tmp_path):
    """AP at most 0.02 lower, mean of three seeds, on pictures of half the
    size; pairs of seeds differ by up to 0.07 in both directions."""
    root = tmp_path / 'shapes'
    generate_shapes(root, image_size=96)
    options = {
        'model.backbone.bias_size': 6,
        'test_dataloader.dataset.pipeline.1.scale': (96, 96)
    }
    means = []
    for dtype in (None, 'bfloat16'):
        precisions = []
        for seed in range(3):
            trained = train(
                DETECTORS[0],
                root,
                tmp_path / f'{dtype}-{seed}',
                options,
                seed=seed,
                amp_dtype=dtype)
            found = apis.test(amp_dtype=dtype, **trained)
            precisions.append(found['coco/bbox_mAP'])
        means.append(np.mean(precisions))
    assert means[0] > 0.2
    assert means[1] > means[0] - 0.02


@pytest.mark.zoo
@pytest.mark.parametrize('name', NAMES)
def test_does_not_pass_unlearned(name, shapes_root, tmp_path):
    """At a learning rate of 0, after which there is nothing to wait for."""
    options = {
        'train_cfg.max_iters': 1,
        'optim_wrapper.optimizer.lr': 0.,
        'optim_wrapper.optimizer.weight_decay': 0.
    }
    if name != CLASSIFIER:  # whose pictures are sorted by class
        options['test_dataloader.dataset.indices'] = 40
    metrics = apis.test(**train(name, shapes_root, tmp_path, options))
    for key, lowest in bars(name).items():
        # The detector may find nothing at all, and then reports nothing.
        assert metrics.get(key, 0.) < lowest / 2


def test_constant_answers_do_not_pass(shapes_root):
    """The most frequent class, everywhere or of every picture."""
    files = sorted((shapes_root / 'annotations/validation').iterdir())
    labels = np.stack([cv2.imread(str(f), cv2.IMREAD_UNCHANGED) for f in files])
    num_classes = labels.max() + 1
    assert num_classes == 7
    best = 100 * np.bincount(labels.ravel()).max() / labels.size / num_classes
    for name in SEGMENTORS:
        assert bars(name)['mIoU'] > 2 * best
    assert bars(CLASSIFIER)['accuracy/top1'] > 2 * 100 / 6
