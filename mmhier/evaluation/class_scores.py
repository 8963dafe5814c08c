"""Scores by class, which mmdet's and mmseg's metrics only print."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from mmengine.evaluator import BaseMetric
from pycocotools.cocoeval import COCOeval

ClassScores = dict[str, dict[str, float | None]]


@contextmanager
def collected_class_scores(
        metrics: Sequence[BaseMetric]) -> Iterator[ClassScores]:
    """Collect what metrics compute by class while they evaluate.

    Args:
        metrics (Sequence[BaseMetric]): Of the evaluator.

    Yields:
        dict[str, dict[str, float]]: Filled in the body: 'bbox AP' and
        'segm AP' (IoU 0.50:0.95, all areas), 'IoU' and 'Acc', each by class
        and in [0, 1]; None for a class without ground truth. Empty for other
        metrics, and in processes that do not compute.
    """
    scores: ClassScores = {}
    for metric in metrics:
        if hasattr(metric, 'total_area_to_metrics'):
            _collect_areas(metric, scores)
    try:
        with _collected_average_precision(scores):
            yield scores
    finally:
        for metric in metrics:
            vars(metric).pop('total_area_to_metrics', None)


def _collect_areas(metric: BaseMetric, scores: ClassScores) -> None:
    """Listen to mmseg's IoUMetric."""
    compute = metric.total_area_to_metrics

    def compute_and_keep(*args: Any, **kwargs: Any) -> dict:
        results = compute(*args, **kwargs)
        for name, values in results.items():
            if np.ndim(values) == 1:
                scores[name] = _by_class(metric.dataset_meta['classes'], values)
        return results

    metric.total_area_to_metrics = compute_and_keep


@contextmanager
def _collected_average_precision(scores: ClassScores) -> Iterator[None]:
    """Listen to COCOeval, on which all of COCO's metrics build."""
    summarize = COCOeval.summarize

    def keep_and_summarize(self: COCOeval) -> None:
        if self.params.useCats:
            scores[f'{self.params.iouType} AP'] = _average_precision(self)
        summarize(self)

    with mock.patch.object(COCOeval, 'summarize', keep_and_summarize):
        yield


def _average_precision(evaluation: COCOeval) -> dict[str, float | None]:
    # Precision, (IoU, recall, class, area, detections), has its classes in
    # the order of their ids, and is -1 where there is no ground truth.
    categories = evaluation.cocoGt.loadCats(
        sorted(set(evaluation.params.catIds)))
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    precision = np.ma.masked_equal(precision, -1).mean((0, 1))
    return _by_class([category['name'] for category in categories],
                     np.ma.filled(precision, np.nan))


def _by_class(classes: Sequence[str],
              values: Sequence[float]) -> dict[str, float | None]:
    return {
        name: float(value) if np.isfinite(value) else None
        for name, value in zip(classes, values)
    }
