"""Dry evaluation of masks of labels, and of labels of images."""
from typing import Any

import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from mmhier.datasets.mask_checks import occurring_values
from mmhier.engine.config import type_name
from mmhier.engine.loader import SampleLoader
from mmhier.errors import MMHierError
from mmhier.progress import track
from .trial import Trial

_PERFECT = ('aAcc', 'mIoU', 'mAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall')


def evaluate_masks(trial: Trial) -> tuple[dict[str, float], str]:
    """Evaluate masks as predictions by mmseg's IoUMetric.

    Pixels without a class are predicted as class 0, as no model can predict
    anything but classes.

    Args:
        trial (Trial): Of mmseg's IoUMetric.

    Returns:
        tuple[dict[str, float], str]: Metrics, and a line on them.

    Raises:
        MMHierError: If heads and metric ignore different labels, or the
            scores are not 100.
    """
    key, metric = trial.key, trial.metric
    unknown = set(metric.metrics) - {'mIoU', 'mDice', 'mFscore'}
    if unknown:
        raise MMHierError(f'{key}.iou_metrics={list(metric.metrics)}: expected '
                          'some of mIoU, mDice, mFscore')
    for name, index in _iter_ignored(trial.model, 'model'):
        if index != metric.ignore_index:
            raise MMHierError(
                f'{name}.ignore_index={index}, but {key}.ignore_index='
                f'{metric.ignore_index}, so pixels would be scored that are '
                'not trained: set both alike')
    loaders = [
        TRANSFORMS.build(t) for t in trial.datasets[0][1].get('pipeline') or ()
        if type_name(t.get('type')).endswith('LoadAnnotations')
    ]
    if not loaders:
        raise MMHierError(
            f'{trial.datasets[0][0]}.pipeline loads no masks, which '
            f'{key} needs: add LoadAnnotations')
    num_classes = len(metric.dataset_meta['classes'])
    present: set[int] = set()
    number = 0
    for number, i in enumerate(track(trial.indices, 'Dry evaluation'), 1):
        info = trial.dataset.get_data_info(i)
        for loader in loaders:
            info = loader(info)
        if number == 1:
            _check_size(trial, i)
        truth = np.ascontiguousarray(info['gt_seg_map'])
        predicted = np.where(truth < num_classes, truth, truth.dtype.type(0))
        present.update(occurring_values(truth))
        metric.process({}, [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(predicted).long()),
                gt_sem_seg=dict(data=torch.from_numpy(truth).long()),
                img_path=info['img_path'])
        ])
    values = metric.compute_metrics(metric.results)
    absent = num_classes - len(present.intersection(range(num_classes)))
    scores = {k: v for k, v in values.items() if k in _PERFECT}
    low = [f'{k} {v:g}' for k, v in scores.items() if not v >= 99.99]
    if low and absent == num_classes:
        return values, f'no pixel of {number} masks has a class'
    if low and not (absent and metric.nan_to_num is not None):
        raise MMHierError(
            f'{key}: perfect predictions score {", ".join(low)} on {number} '
            'images, where 100 is expected: pixels of no class count as '
            f'errors. Masks hold the values {sorted(present)}, the metric '
            f'ignores {metric.ignore_index} of {num_classes} classes')
    return values, (
        f'perfect predictions on {number} images score ' +
        ', '.join(f'{k} {v:g}' for k, v in scores.items()) +
        (f'; {absent} classes occur in none of them' if absent else ''))


def _check_size(trial: Trial, i: int) -> None:
    """Check that a mask is as large as its image after the pipeline.

    Predictions are resized to the image before they are scored.
    """
    sample, = next(
        iter(
            SampleLoader(
                trial.dataset, batch_size=1, sampler=[i], collate_fn=list)))
    packed = sample.get('data_samples', {})
    if 'gt_sem_seg' not in packed or 'ori_shape' not in packed:
        return
    mask, image = packed.gt_sem_seg.shape, tuple(packed.ori_shape[:2])
    if mask != image:
        raise MMHierError(
            f'{trial.datasets[0][0]}.pipeline gives {trial.key} masks of '
            f'{mask[1]}x{mask[0]} pixels for predictions of '
            f'{image[1]}x{image[0]}: move LoadAnnotations after Resize')


def _iter_ignored(part: Any, name: str) -> Any:
    """Keys and ``ignore_index`` of the decode heads that state one."""
    if isinstance(part, (list, tuple)):
        for i, item in enumerate(part):
            yield from _iter_ignored(item, f'{name}.{i}')
    elif isinstance(part, dict):
        if name.partition('head')[1] and 'ignore_index' in part:
            yield name, part['ignore_index']
        for key in ('decode_head', 'auxiliary_head', 'module'):
            yield from _iter_ignored(part.get(key), f'{name}.{key}')


def evaluate_labels(trial: Trial) -> tuple[dict[str, float], str]:
    """Evaluate labels as predictions by mmpretrain's Accuracy.

    Args:
        trial (Trial): Of mmpretrain's Accuracy.

    Returns:
        tuple[dict[str, float], str]: Metrics, and a line on them.

    Raises:
        MMHierError: If there are fewer classes than guesses, an image has no
            label of the classes, or the scores are not 100.
    """
    key, metric = trial.key, trial.metric
    head = trial.model.get('head')
    num_classes = head.get('num_classes') if isinstance(head, dict) else None
    if num_classes is None:
        num_classes = len(metric.dataset_meta['classes'])
    if max(metric.topk) > num_classes:
        raise MMHierError(f'{key}.topk={tuple(metric.topk)}: there are only '
                          f'{num_classes} classes')
    number = 0
    for number, i in enumerate(track(trial.indices, 'Dry evaluation'), 1):
        info = trial.dataset.get_data_info(i)
        label = info.get('gt_label')
        if not isinstance(label,
                          (int, np.integer)) or not (0 <= label < num_classes):
            raise MMHierError(
                f'{key}: {info.get("img_path")} has the label {label!r}: '
                f'expected one of 0 to {num_classes - 1}')
        scores = torch.zeros(num_classes)
        scores[label] = 1
        metric.process(
            {}, [dict(pred_score=scores, gt_label=torch.tensor([int(label)]))])
    values = metric.compute_metrics(metric.results)
    low = [f'{k} {v:g}' for k, v in values.items() if not v >= 99.99]
    if low:
        raise MMHierError(f'{key}: perfect predictions score {", ".join(low)} '
                          f'on {number} images, where 100 is expected')
    return values, (f'perfect predictions on {number} images score ' +
                    ', '.join(f'{k} {v:g}' for k, v in values.items()))
