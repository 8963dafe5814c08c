"""Dry evaluation: the ground truth, given to an evaluator as predictions."""
import io
import logging
import math
import os.path as osp
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmhier.datasets.coco_checks import read_coco
from mmhier.datasets.mask_checks import spread_evenly
from mmhier.engine.config import iter_datasets, iter_metrics, type_name
from mmhier.engine.config_errors import naming_config_errors
from mmhier.engine.runtime_checks import build_named, iter_hooks
from mmhier.errors import MMHierError
from mmhier.files import make_writable
from .dry_labels import evaluate_labels, evaluate_masks
from .dry_objects import evaluate_objects
from .trial import Trial

_MIN_IMAGES = 10  # read even after the time limit


def dry_evaluate(cfg: Config,
                 phase: str,
                 max_images: int | None = None,
                 max_seconds: float = math.inf,
                 dataset: Any = None) -> list[str]:
    """Evaluate the ground truth of a data set as predictions.

    Perfect predictions score AP = 1, mIoU = 100 and top-1 = 100, unless the
    evaluator and the dataloader disagree. The evaluator's names of metrics
    are compared with those that hooks and schedulers monitor.

    Args:
        cfg (Config): Its data was checked by
            :func:`mmhier.datasets.data_checks.check_data`.
        phase (str): 'val' or 'test'.
        max_images (int, optional): Evenly spread over the set.
            Defaults to None: all.
        max_seconds (float): Time limit of reading images for each metric,
            after at least 10 images. Defaults to infinity.
        dataset (Dataset, optional): The dataloader's, if it is built already.
            Defaults to None.

    Returns:
        list[str]: The result of each metric: the score, legitimate reasons
        for a lower one, or that the metric was not tried.

    Raises:
        MMHierError: If the predictions do not score as they should, or a
            monitored metric does not exist.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader, evaluator = f'{phase}_dataloader', f'{phase}_evaluator'
    settings = list(iter_metrics(cfg.get(evaluator), evaluator))
    if cfg.get(loader) is None or not settings:
        return []
    datasets = list(iter_datasets(cfg[loader], loader))
    notes: list[str] = []
    names: list[str] = []
    complete = True
    start = time.monotonic()
    with naming_config_errors(cfg), _quiet(), _forgetting_annotations():
        if dataset is None:
            dataset = DATASETS.build(cfg[loader]['dataset'])
        for key, item in settings:
            metric = build_named(key, item, METRICS)
            # The files are for the predictions of the model.
            for output in ('outfile_prefix', 'output_dir'):
                path = getattr(metric, output, None)
                if isinstance(path, str) and '://' not in path:
                    folder = path if output == 'output_dir' else osp.dirname(
                        path)
                    make_writable(f'{key}.{output}', folder or '.')
                    setattr(metric, output, None)
            metric.dataset_meta = getattr(dataset, 'metainfo', None)
            evaluate = _evaluation_of(metric)
            if evaluate is None or not hasattr(dataset, 'get_data_info'):
                complete = False
                notes.append(f'{key}: {type_name(item["type"])} was not tried')
                continue
            number = len(dataset) if max_images is None else max_images
            indices = _until(start + max_seconds,
                             spread_evenly(range(len(dataset)), number))
            values, note = evaluate(
                Trial(key, item, metric, dataset, datasets, indices, cfg.model))
            prefix = metric.prefix or metric.default_prefix
            names += [f'{prefix}/{k}' if prefix else k for k in values]
            notes.append(f'{key}: {note}')
            start = time.monotonic()
    if phase == 'val' and complete:
        _check_monitored(cfg, names)
    return notes


def _evaluation_of(metric: Any) -> Callable | None:
    """Function that evaluates the ground truth by a metric, if one can."""
    for base in type(metric).__mro__:
        if 'compute_metrics' not in vars(base):
            continue
        name = f'{base.__module__.partition(".")[0]}.{base.__name__}'
        known = {
            'mmdet.CocoMetric': evaluate_objects,
            'mmhier.CocoMetric': evaluate_objects,
            'mmseg.IoUMetric': evaluate_masks,
            'mmhier.IoUMetric': evaluate_masks,
            'mmpretrain.Accuracy': evaluate_labels,
        }
        unscored = getattr(metric, 'format_only', False)
        return None if unscored else known.get(name)
    return None


def _until(deadline: float, items: Sequence[int]) -> Iterator[int]:
    """Items until a deadline, at least ``_MIN_IMAGES``."""
    # In an order that covers the set wherever it ends.
    step = max(1, math.isqrt(len(items)))
    for number, i in enumerate(
            i for start in range(step) for i in items[start::step]):
        if number >= _MIN_IMAGES and time.monotonic() > deadline:
            return
        yield i


@contextmanager
def _forgetting_annotations() -> Iterator[None]:
    """Clear the annotation file that the checks keep in memory."""
    try:
        yield
    finally:
        read_coco.cache_clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the scores of perfect predictions out of the log."""

    def is_warning(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    logger = MMLogger.get_current_instance()
    logger.addFilter(is_warning)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.removeFilter(is_warning)


def _check_monitored(cfg: Config, names: Sequence[str]) -> None:
    """Check the names of metrics that hooks and schedulers ask for."""
    for key, name in _iter_monitored(cfg):
        if name not in names:
            ends = [n for n in names if n.rpartition('/')[2] == name]
            expected = ends[0] if ends else ', '.join(names)
            raise MMHierError(f'{key}={name}: the evaluator has no such '
                              f'metric, expected {expected}')


def _iter_monitored(cfg: Config) -> Iterator[tuple[str, str]]:
    """Keys of a config that name metrics, and the names."""
    for key, hook in iter_hooks(cfg):
        best = hook.get('save_best')
        for name in [best] if isinstance(best, str) else best or ():
            if name != 'auto':
                yield f'{key}.save_best', name
        if type_name(hook.get('type')) == 'EarlyStoppingHook':
            yield f'{key}.monitor', str(hook.get('monitor'))
    schedulers = cfg.get('param_scheduler') or ()
    if isinstance(schedulers, dict):
        schedulers = [schedulers]
    for i, scheduler in enumerate(schedulers):
        if isinstance(scheduler, dict) and 'ReduceOnPlateau' in type_name(
                scheduler.get('type')):
            yield (f'param_scheduler.{i}.monitor',
                   str(scheduler.get('monitor', 'loss')))
