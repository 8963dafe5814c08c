"""mmseg's mIoU, mAcc and aAcc against a reference in numpy."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric as MMSegIoU
from mmseg.registry import METRICS
from mmhier.evaluation.per_class import collect_per_class, keep_per_class

ROOT = Path(__file__).parents[2]
ADE_MINI = ROOT.parent / 'shared' / 'data' / 'ade_mini'
CONFIG = ROOT / 'configs/_base_/datasets/ade20k_512x512.py'


def reference(truths, predictions, num_classes, ignore=255) -> dict:
    """Percentages over all pixels that are labelled.

    Classes that occur neither in truth nor in prediction have no IoU, those
    that do not occur in truth no accuracy, and count in no mean.
    """
    confusion = np.zeros((num_classes, num_classes))
    for truth, prediction in zip(truths, predictions):
        labelled = truth != ignore
        np.add.at(confusion, (truth[labelled], prediction[labelled]), 1)
    right = np.diag(confusion)
    with np.errstate(invalid='ignore'):
        acc = right / confusion.sum(1)
        iou = right / (confusion.sum(1) + confusion.sum(0) - right)
    return dict(
        aAcc=100 * right.sum() / confusion.sum(),
        mIoU=100 * np.nanmean(iou),
        mAcc=100 * np.nanmean(acc))


def evaluate(truths, predictions, num_classes) -> dict:
    """By the metric of the config."""
    init_default_scope('mmseg')
    metric = METRICS.build(Config.fromfile(CONFIG).test_evaluator)
    metric.dataset_meta = dict(classes=[str(i) for i in range(num_classes)])
    for truth, prediction in zip(truths, predictions):
        sample = dict(
            gt_sem_seg=dict(data=torch.from_numpy(truth)[None].long()),
            pred_sem_seg=dict(data=torch.from_numpy(prediction)[None].long()))
        metric.process({}, [sample])
    return metric.evaluate(len(truths))


def assert_equals_reference(truths, predictions, num_classes) -> dict:
    found = evaluate(truths, predictions, num_classes)
    expected = reference(truths, predictions, num_classes)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # mmseg rounds to two digits.
        assert found[name] == pytest.approx(value, abs=0.0051), name
    return found


def load(path, reduced: bool) -> np.ndarray:
    """Mask of a file by the transform of the config's test pipeline."""
    init_default_scope('mmseg')
    transforms = [
        transform for transform in Config.fromfile(CONFIG).test_pipeline
        if transform['type'] == 'LoadAnnotations'
    ]
    data = dict(
        seg_map_path=str(path),
        seg_fields=[],
        label_map=None,
        reduce_zero_label=reduced)
    return Compose(transforms)(data)['gt_seg_map']


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('num_classes', [2, 19, 150])
def test_random_maps(num_classes, seed):
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    # Some classes in one of both only, and some in none.
    in_truth = rng.random(num_classes) < 0.8
    in_truth[0] = True
    for size in ((40, 60), (64, 64), (33, 90)):
        truth = rng.choice(np.flatnonzero(in_truth), size).astype(np.uint8)
        noise = rng.integers(0, max(2, num_classes * 9 // 10), size)
        wrong = rng.random(size) < 0.4
        predictions.append(np.where(wrong, noise, truth))
        truth[rng.random(size) < 0.2] = 255
        truths.append(truth)
    metrics = assert_equals_reference(truths, predictions, num_classes)
    assert 20 < metrics['mIoU'] < 95


def test_known_answer():
    """Of 2 + 2 labelled pixels 3 are right; class 2 occurs nowhere."""
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 0, 0, 1, 2]])
    metrics = assert_equals_reference([truth], [prediction], 3)
    assert metrics['aAcc'] == 75
    assert metrics['mAcc'] == pytest.approx((100 + 50) / 2)
    # Class 0: 2 of 3. Class 1: 1 of 2.
    assert metrics['mIoU'] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2, abs=.01)


def test_a_class_that_is_only_predicted_has_an_iou_of_zero():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    prediction = np.array([[0, 0, 1, 2]])
    metrics = assert_equals_reference([truth], [prediction], 3)
    assert metrics['mIoU'] == 50
    assert metrics['mAcc'] == 75


def test_label_zero_of_the_files_is_ignored_and_the_rest_moves(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 151, (70, 90), dtype=np.uint8)
    path = tmp_path / 'mask.png'
    cv2.imwrite(str(path), raw)
    assert np.array_equal(load(path, reduced=False), raw)
    truth = load(path, reduced=True)
    assert np.array_equal(truth == 255, raw == 0)
    assert np.array_equal(truth[raw > 0], raw[raw > 0] - 1)
    prediction = np.where(rng.random(raw.shape) < 0.5, raw.astype(int) - 1, 3)
    prediction = prediction.clip(0)
    assert_equals_reference([truth], [prediction], 150)


@pytest.mark.skipif(not ADE_MINI.is_dir(), reason='no ade_mini')
def test_photos_of_ade_mini():
    rng = np.random.default_rng(0)
    truths, predictions = [], []
    for path in sorted(ADE_MINI.glob('annotations/validation/*.png')):
        truth = load(path, reduced=True)
        truths.append(truth)
        shifted = np.roll(truth, (9, -14), (0, 1))
        predictions.append(np.where(shifted == 255, 0, shifted).astype(int))
        noisy = rng.random(truth.shape) < 0.05
        predictions[-1][noisy] = rng.integers(0, 150, noisy.sum())
    metrics = assert_equals_reference(truths, predictions, 150)
    assert 10 < metrics['mIoU'] < 95
    perfect = [np.where(t == 255, 0, t).astype(int) for t in truths]
    metrics = assert_equals_reference(truths, perfect, 150)
    assert metrics == dict(aAcc=100, mIoU=100, mAcc=100)


@pytest.mark.parametrize('kind', ['IoUMetric', 'mmseg.IoUMetric', MMSegIoU])
def test_scores_of_each_class(kind):
    evaluator = [dict(type=kind, iou_metrics=['mIoU']), dict(type='Other')]
    keep_per_class(evaluator)
    assert [metric['type']
            for metric in evaluator] == ['mmhier.IoUMetric', 'Other']
    init_default_scope('mmseg')
    metric, stock = METRICS.build(evaluator[0]), MMSegIoU()
    for each in (metric, stock):
        each.dataset_meta = dict(classes=('a', 'b', 'c'))
        each.process(None, [
            dict(
                pred_sem_seg=dict(data=torch.tensor([[0, 0, 1, 1]])),
                gt_sem_seg=dict(data=torch.tensor([[0, 0, 0, 1]])))
        ])
    assert collect_per_class([metric, stock]) == {}
    assert metric.evaluate(1) == stock.evaluate(1)
    assert collect_per_class([metric, stock]) == {
        'IoU': dict(a=pytest.approx(2 / 3), b=0.5, c=None),
        'Acc': dict(a=pytest.approx(2 / 3), b=1., c=None)
    }
