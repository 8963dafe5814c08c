"""Scores of each class, which our metrics keep in ``per_class``."""
from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmhier.engine.config import iter_metrics

PerClass = dict[str, dict[str, float | None]]

# mmseg's metric by name, by name with scope, and as a pure-Python config.
_MMSEG_IOU = ('IoUMetric', 'mmseg.IoUMetric',
              'mmseg.evaluation.metrics.iou_metric.IoUMetric')


def by_class(classes: Iterable[str],
             values: Iterable[float]) -> dict[str, float | None]:
    """Map classes to values; None for nan, a class without ground truth."""
    return {
        name: float(value) if np.isfinite(value) else None
        for name, value in zip(classes, values)
    }


def keep_per_class(evaluator: Any) -> None:
    """Replace mmseg's IoUMetric in a config by :class:`mmhier.IoUMetric`.

    Args:
        evaluator (dict | list): Such as ``cfg.test_evaluator`` of a config
            whose default scope is mmseg; changed in place. Metrics and their
            values stay the same.
    """
    for _, metric in iter_metrics(evaluator, 'evaluator'):
        kind = metric.get('type')
        if isinstance(kind, type):
            kind = f'{kind.__module__}.{kind.__name__}'
        if kind in _MMSEG_IOU:
            metric['type'] = 'mmhier.IoUMetric'


def collect_per_class(metrics: Iterable[BaseMetric]) -> PerClass:
    """Merge the ``per_class`` of metrics that have it, after evaluation."""
    scores: PerClass = {}
    for metric in metrics:
        scores.update(getattr(metric, 'per_class', {}))
    return scores
