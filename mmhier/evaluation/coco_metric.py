"""COCO's average precision, by pycocotools or by faster-coco-eval."""
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log
from pycocotools.cocoeval import COCOeval
from mmhier.errors import MMHierError
from mmhier.registry import METRICS

_MMDET_MODULE = 'mmdet.evaluation.metrics.coco_metric'
BACKENDS = ('auto', 'pycocotools', 'faster')


class TolerantCOCO(COCO):
    """mmdet's COCO that takes an empty list of results, and ids from 0."""

    def createIndex(self) -> None:
        """Index the annotations by id, image and category.

        pycocotools counts what matches an annotation of id 0 as unmatched,
        so files that number from 0 are renumbered from 1.
        """
        annotations = self.dataset.get('annotations', [])
        if any(annotation['id'] == 0 for annotation in annotations):
            print_log('annotation ids begin with 0, which COCO\'s evaluation '
                      'takes for "unmatched": numbered from 1 instead')
            for i, annotation in enumerate(annotations):
                annotation['id'] = i + 1
        super().createIndex()

    def loadRes(self, resFile: Any) -> COCO:
        """Results as a COCO object; see pycocotools."""
        if isinstance(resFile, list) and not resFile:
            results = COCO()
            results.dataset = dict(
                images=self.dataset['images'],
                categories=self.dataset['categories'],
                annotations=[])
            results.createIndex()
            return results
        return super().loadRes(resFile)


class FasterCOCOeval(COCOeval):
    """pycocotools's COCOeval with matching done by faster-coco-eval.

    Parameters, the shape of ``eval`` and the summary are pycocotools's.
    """

    def evaluate(self) -> None:
        """Match detections and ground truth, and accumulate both."""
        from faster_coco_eval import COCOeval_faster
        faster = COCOeval_faster(self.cocoGt, self.cocoDt, self.params.iouType)
        for name in ('imgIds', 'catIds', 'iouThrs', 'recThrs', 'maxDets',
                     'areaRng', 'areaRngLbl', 'useCats'):
            setattr(faster.params, name, getattr(self.params, name))
        faster.evaluate()
        faster.accumulate()
        self.params.maxDets = faster.params.maxDets
        self.eval = faster.eval

    def accumulate(self) -> None:
        """Nothing is left to do after :meth:`evaluate`."""


def coco_eval_class(backend: str = 'auto') -> type:
    """Class with pycocotools's interface that evaluates COCO detections.

    Args:
        backend (str): 'pycocotools', 'faster' (faster-coco-eval) or 'auto',
            the second where it is installed. Defaults to 'auto'.

    Raises:
        ValueError: If the backend is unknown or not installed.
    """
    if backend not in BACKENDS:
        raise MMHierError(f'backend={backend!r} of mmhier.CocoMetric: expected '
                          f'one of {", ".join(BACKENDS)}')
    installed = find_spec('faster_coco_eval') is not None
    if backend == 'faster' and not installed:
        raise MMHierError("backend='faster' of mmhier.CocoMetric needs "
                          'faster-coco-eval, which is not installed: run '
                          'pip install faster-coco-eval')
    if backend == 'pycocotools' or not installed:
        return COCOeval
    return FasterCOCOeval


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """mmdet's CocoMetric with a choice of backend and all twelve numbers.

    Values are not rounded. Besides mmdet's ``bbox_mAP``, ``bbox_mAP_50`` and
    so on there are the recalls, named by ``proposal_nums``: with (1, 10, 100)
    ``bbox_AR@1``, ``bbox_AR@10``, ``bbox_AR@100``, ``bbox_AR_s@100``,
    ``bbox_AR_m@100``, ``bbox_AR_l@100``. Where a model finds nothing at all
    they are 0, and as everywhere -1 where there is no ground truth.

    With ``classwise=True``, mmdet's ``{class}_precision`` is that of the last
    of the metrics; ``bbox_{class}_precision`` and ``segm_{class}_precision``
    are there too, nan for classes without ground truth.

    Args:
        backend (str): 'pycocotools', 'faster' (faster-coco-eval) or 'auto',
            the second where it is installed. Both give the same numbers.
            Defaults to 'auto'.
        proposal_nums (Sequence[int]): Three numbers of detections per image,
            at which recall is given. COCO's average precision is the one at
            100 detections, so they should contain 100.
            Defaults to (1, 10, 100).
        **kwargs: Arguments of :class:`mmdet.evaluation.CocoMetric`.

    Raises:
        ValueError: If the backend is unknown or not installed, or there are
            not three ``proposal_nums``.
    """

    iou_thrs: np.ndarray

    def __init__(self,
                 *args: Any,
                 backend: str = 'auto',
                 proposal_nums: Sequence[int] = (1, 10, 100),
                 **kwargs: Any) -> None:
        self.eval_class = coco_eval_class(backend)
        with mock.patch(f'{_MMDET_MODULE}.COCO', TolerantCOCO):
            super().__init__(
                *args, proposal_nums=sorted(proposal_nums), **kwargs)
        # pycocotools compares them with single thresholds.
        self.iou_thrs = np.atleast_1d(self.iou_thrs)
        if len(proposal_nums) != 3 and set(self.metrics) != {'proposal_fast'}:
            raise MMHierError(f'proposal_nums={tuple(proposal_nums)} of '
                              'mmhier.CocoMetric: expected three numbers, such '
                              'as (1, 10, 100)')

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from processed results.

        Args:
            results (list): Ground truth and predictions of each image.

        Returns:
            dict[str, float]: Metrics by name.

        Raises:
            ValueError: If masks are to be evaluated and there are none.
        """
        if 'segm' in self.metrics and 'masks' not in results[0][1]:
            raise MMHierError("metric='segm' of mmhier.CocoMetric needs masks, "
                              'and the model predicts none: evaluate bbox only')
        evaluations: list[COCOeval] = []

        class Recording(self.eval_class):  # type: ignore[name-defined]

            def summarize(self) -> None:
                super().summarize()
                evaluations.append(self)

        # mmdet's function names the classes that it evaluates with.
        print_log(
            f'COCO evaluation by {self.eval_class.__name__}', logger='current')
        with mock.patch.multiple(
                _MMDET_MODULE,
                COCO=TolerantCOCO,
                COCOeval=Recording,
                COCOevalMP=Recording):
            rounded = super().compute_metrics(results)
        kinds = [kind for kind in self.metrics if kind != 'proposal_fast']
        exact = dict(rounded)
        for kind, evaluation in zip(kinds, evaluations):
            self._replace_summary(exact, kind, evaluation.stats)
            if self.classwise and kind != 'proposal':
                self._replace_class_precisions(exact, kind, evaluation)
        return exact

    def _replace_summary(self, metrics: dict[str, float], kind: str,
                         stats: np.ndarray) -> None:
        """Put unrounded numbers in the place of mmdet's."""
        names = [
            'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100',
            'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000'
        ]
        prefix = '' if kind == 'proposal' else f'{kind}_'
        if self.metric_items is not None:
            for name in self.metric_items:
                metrics[prefix + name] = float(stats[names.index(name)])
            return
        for name in names:
            metrics.pop(prefix + name, None)
        few, some, many = self.proposal_nums
        names[6:] = [
            f'AR@{few}', f'AR@{some}', f'AR@{many}', f'AR_s@{many}',
            f'AR_m@{many}', f'AR_l@{many}'
        ]
        # Proposals have recalls only.
        first = 6 if kind == 'proposal' else 0
        for name, value in list(zip(names, stats))[first:]:
            metrics[prefix + name] = float(value)

    def _replace_class_precisions(self, metrics: dict[str, float], kind: str,
                                  evaluation: COCOeval) -> None:
        """Average precision of each class, unrounded."""
        # (IoU threshold, recall, class, area range, max. detections)
        precisions = evaluation.eval['precision'][:, :, :, 0, -1]
        categories = self._coco_api.loadCats(sorted(set(self.cat_ids)))
        for i, category in enumerate(categories):
            valid = precisions[:, :, i][precisions[:, :, i] > -1]
            value = float(valid.mean()) if valid.size else float('nan')
            metrics[f'{category["name"]}_precision'] = value
            metrics[f'{kind}_{category["name"]}_precision'] = value
