"""COCO average precision and recall, by pycocotools or faster-coco-eval."""
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.fileio import get_local_path, load
from mmengine.logging import MMLogger, print_log
from pycocotools.cocoeval import COCOeval
from mmhier.errors import MMHierError
from mmhier.evaluation.per_class import PerClass, by_class
from mmhier.registry import METRICS

BACKENDS = ('auto', 'pycocotools', 'faster')
AP_NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
TITLES = {'mAP': 'Average Precision  (AP)', 'AR': 'Average Recall     (AR)'}
AREAS = {'s': 'small', 'm': 'medium', 'l': 'large'}


class TolerantCOCO(COCO):
    """COCO annotations with ids of any kind and without ``iscrowd``.

    Both backends read ids as 64-bit integers and take annotation id 0 for
    "unmatched". Annotations are therefore numbered from 1 in file order, and
    images and categories from 1 in the order of their ids. A missing or null
    ``iscrowd`` is 0; annotations of unlisted images or categories are dropped.

    Args:
        annotation_file (str): COCO json.
        content (dict, optional): What the file holds, if it is parsed already;
            left unchanged. Defaults to None: the file is read.

    Attributes:
        image_numbers (dict): Number of each image by its id in the file.
        category_numbers (dict): Number of each category by its id.
    """
    image_numbers: dict[Any, int]
    category_numbers: dict[Any, int]

    def __init__(self,
                 annotation_file: str,
                 content: dict[str, Any] | None = None) -> None:
        self.annotation_file = annotation_file
        super().__init__(annotation_file if content is None else None)
        if content is not None:
            self.dataset = {
                key: [dict(entry) for entry in content.get(key, ())]
                for key in ('images', 'annotations', 'categories')
            }
            self.createIndex()
            self.img_ann_map = self.imgToAnns
            self.cat_img_map = self.catToImgs

    def createIndex(self) -> None:
        """Number images and annotations, and index them.

        Raises:
            MMHierError: If ``iscrowd`` is neither 0 nor 1.
        """
        images = self.dataset.get('images', [])
        self.image_numbers = _number(images)
        for image in images:
            # faster-coco-eval takes whole numbers alone.
            image['id'] = self.image_numbers[image['id']]
            for key in ('width', 'height'):
                if key in image:
                    image[key] = int(image[key])
        self.category_numbers = _number(self.dataset['categories'])
        for category in self.dataset['categories']:
            category['id'] = self.category_numbers[category['id']]
        kept = [
            annotation for annotation in self.dataset.get('annotations', [])
            if annotation['image_id'] in self.image_numbers
            and annotation['category_id'] in self.category_numbers
        ]
        for i, annotation in enumerate(kept, 1):
            crowd = annotation.get('iscrowd')
            if crowd not in (None, 0, 1):
                raise MMHierError(
                    f'annotation file {self.annotation_file}: annotation '
                    f'{annotation["id"]} has iscrowd={crowd!r}: expected 0 or '
                    '1')
            annotation.update(
                id=i,
                image_id=self.image_numbers[annotation['image_id']],
                category_id=self.category_numbers[annotation['category_id']],
                iscrowd=int(crowd or 0))
        self.dataset['annotations'] = kept
        super().createIndex()

    def loadRes(self, resFile: list[dict]) -> COCO:
        """Index detections, which may be none; see pycocotools."""
        if resFile:
            return super().loadRes(resFile)
        results = COCO()
        results.dataset = dict(self.dataset, annotations=[])
        results.createIndex()
        return results


def _number(entries: Sequence[dict]) -> dict[Any, int]:
    """Numbers from 1 by id, in the order of the ids."""
    ids = sorted((entry['id'] for entry in entries),
                 key=lambda id_: (isinstance(id_, str), id_))
    return {id_: i for i, id_ in enumerate(ids, 1)}


class FasterCOCOeval(COCOeval):
    """pycocotools' COCOeval with matching done by faster-coco-eval.

    Parameters and the shape of ``eval`` are pycocotools'.
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
        self.eval = faster.eval

    def accumulate(self) -> None:
        """Do nothing; :meth:`evaluate` accumulates."""


def coco_eval_class(backend: str = 'auto') -> type[COCOeval]:
    """Return the COCOeval class of a backend.

    Args:
        backend (str): 'pycocotools', 'faster' (faster-coco-eval) or 'auto',
            the latter if installed. Defaults to 'auto'.

    Raises:
        MMHierError: If the backend is unknown or not installed.
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
    """mmdet's CocoMetric with all twelve COCO numbers, unrounded.

    Besides ``bbox_mAP``, ``bbox_mAP_50`` and so on it returns the recalls,
    named by ``proposal_nums``: for (1, 10, 100) ``bbox_AR@1``,
    ``bbox_AR@10``, ``bbox_AR@100``, ``bbox_AR_s@100``, ``bbox_AR_m@100``,
    ``bbox_AR_l@100``. Values are 0 if nothing is detected and -1 without
    ground truth.

    Only images passed to :meth:`process` are scored, so that ``indices`` of
    the dataset selects a subset of ``ann_file``.

    With ``classwise=True`` there are ``{class}_precision``, of the last
    metric as in mmdet, and ``bbox_{class}_precision`` and
    ``segm_{class}_precision``; nan for classes without ground truth.

    Args:
        ann_file (str, optional): COCO annotation file. Defaults to None, the
            ``instances`` of the data samples.
        backend (str): 'pycocotools', 'faster' (faster-coco-eval) or 'auto',
            the latter if installed. Both give the same numbers.
            Defaults to 'auto'.
        proposal_nums (Sequence[int]): Three numbers of detections per image
            at which recall is computed. ``mAP`` is the average precision at
            100 detections, so they should contain 100.
            Defaults to (1, 10, 100).
        sort_categories (bool): See :class:`mmdet.evaluation.CocoMetric`.
        backend_args (dict, optional): File backend of ``ann_file``.
        **kwargs: Other arguments of :class:`mmdet.evaluation.CocoMetric`;
            ``use_mp_eval`` has no effect.

    Attributes:
        per_class (dict[str, dict[str, float]]): 'bbox AP' and 'segm AP' (IoU
            0.50:0.95, all areas) by class, in [0, 1]; None for classes
            without ground truth. Set by :meth:`compute_metrics`.

    Raises:
        MMHierError: If the backend is unknown or not installed, there are
            not three ``proposal_nums``, or one of ``metric_items`` is
            unknown.
    """

    iou_thrs: np.ndarray

    def __init__(self,
                 ann_file: str | None = None,
                 *args: Any,
                 backend: str = 'auto',
                 proposal_nums: Sequence[int] = (1, 10, 100),
                 sort_categories: bool = False,
                 backend_args: dict | None = None,
                 **kwargs: Any) -> None:
        self.eval_class = coco_eval_class(backend)
        self.per_class: PerClass = {}
        self.ann_file = ann_file
        self.sort_categories = sort_categories
        self._truth: TolerantCOCO | None = None
        super().__init__(
            None,
            *args,
            proposal_nums=sorted(proposal_nums),
            backend_args=backend_args,
            **kwargs)
        # pycocotools compares them with single thresholds.
        self.iou_thrs = np.atleast_1d(self.iou_thrs)
        if set(self.metrics) != {'proposal_fast'}:
            self._check_names()
        if ann_file is not None:
            self._read_truth()  # Refuse an unusable file early.

    @property
    def _coco_api(self) -> Any:
        """Ground truth of ``ann_file``, in memory during an evaluation only."""
        if self._truth is None and self.ann_file is not None:
            self._truth = self._read_truth()
        return self._truth

    @_coco_api.setter
    def _coco_api(self, truth: TolerantCOCO | None) -> None:
        self._truth = truth

    def share_annotations(self, content: dict[str, Any]) -> None:
        """Take the parsed content of ``ann_file`` for the next evaluation.

        Args:
            content (dict): Left unchanged.
        """
        self._truth = self._sorted(TolerantCOCO(str(self.ann_file), content))

    def _read_truth(self) -> TolerantCOCO:
        with get_local_path(
                self.ann_file, backend_args=self.backend_args) as path:
            return self._sorted(TolerantCOCO(path))

    def _sorted(self, coco: TolerantCOCO) -> TolerantCOCO:
        if self.sort_categories:
            coco.dataset['categories'].sort(key=lambda c: c['id'])
            coco.cats = {c['id']: c for c in coco.dataset['categories']}
        return coco

    def _check_names(self) -> None:
        if len(self.proposal_nums) != 3:
            raise MMHierError(
                f'proposal_nums={tuple(self.proposal_nums)} of '
                'mmhier.CocoMetric: expected three numbers, such as '
                '(1, 10, 100)')
        names = (*AP_NAMES, *self._recall_names())
        unknown = [i for i in self.metric_items or () if i not in names]
        if unknown:
            raise MMHierError(f'metric_items={unknown} of mmhier.CocoMetric: '
                              f'expected some of {", ".join(names)}')

    def _recall_names(self) -> list[str]:
        few, some, many = self.proposal_nums
        return [
            f'AR@{few}', f'AR@{some}', f'AR@{many}', f'AR_s@{many}',
            f'AR_m@{many}', f'AR_l@{many}'
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from processed results.

        Args:
            results (list): Ground truth and predictions of each image.

        Returns:
            dict[str, float]: Metrics by name.

        Raises:
            MMHierError: If masks are to be evaluated and there are none, or
                an image is not in ``ann_file``.
        """
        truths, predictions = zip(*results)
        if 'segm' in self.metrics and 'masks' not in predictions[0]:
            raise MMHierError("metric='segm' of mmhier.CocoMetric needs masks, "
                              'and the model predicts none: evaluate bbox only')
        metrics: dict[str, float] = {}
        self.per_class = {}
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or str(Path(folder, 'results'))
            if self._coco_api is None:
                self._coco_api = TolerantCOCO(
                    self.gt_to_coco_json(truths, prefix))
            # As in the file, for the files of results.
            ids = {n: i for i, n in self._coco_api.category_numbers.items()}
            self.cat_ids = [
                ids[number] for number in self._coco_api.get_cat_ids(
                    cat_names=self.dataset_meta['classes'])
            ]
            files = self.results2json(predictions, prefix)
            if self.format_only:
                return metrics
            self.img_ids = self._evaluated_images(truths)
            for kind in self.metrics:
                if kind == 'proposal_fast':
                    recalls = self.fast_eval_recall(predictions,
                                                    self.proposal_nums,
                                                    self.iou_thrs)
                    metrics.update(
                        zip((f'AR@{num}' for num in self.proposal_nums),
                            recalls))
                else:
                    metrics.update(self._evaluate(kind, load(files[kind])))
        if self.ann_file is not None:
            self._truth = None
        return metrics

    def _evaluated_images(self, truths: Sequence[dict]) -> list[int]:
        """Numbers of the images that were passed to :meth:`process`."""
        numbers = self._coco_api.image_numbers
        unknown = [t['img_id'] for t in truths if t['img_id'] not in numbers]
        if unknown:
            raise MMHierError(
                f'{len(unknown)} of {len(truths)} images, such as id '
                f'{unknown[0]}, are not in ann_file of mmhier.CocoMetric: set '
                'the annotation file of the dataset')
        seen = [numbers[truth['img_id']] for truth in truths]
        if len(set(seen)) < len(numbers):
            print_log(
                f'COCO evaluation of the {len(set(seen))} images seen, of '
                f'{len(numbers)} in the annotation file',
                logger='current')
        return seen

    def _evaluate(self, kind: str, detections: list[dict]) -> dict[str, float]:
        """Metrics of 'bbox', 'segm' or 'proposal'."""
        coco = self._coco_api
        for detection in detections:
            detection['image_id'] = coco.image_numbers[detection['image_id']]
            detection['category_id'] = coco.category_numbers[
                detection['category_id']]
            if kind == 'segm':
                # Else COCO would take areas of objects from boxes.
                del detection['bbox']
        evaluation = self.eval_class(coco, coco.loadRes(detections),
                                     'segm' if kind == 'segm' else 'bbox')
        params = evaluation.params
        params.catIds = self._category_numbers()
        params.imgIds = self.img_ids
        params.maxDets = self.proposal_nums
        params.iouThrs = self.iou_thrs
        params.useCats = int(kind != 'proposal')
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval['precision']
        values = self._precisions(precision)
        values.update(self._recalls(evaluation.eval['recall']))
        # Proposals have no class, and by default no precision.
        prefix = '' if kind == 'proposal' else f'{kind}_'
        names = list(values)[6:] if kind == 'proposal' else list(values)
        metrics = {
            prefix + name: values[name]
            for name in self.metric_items or names
        }
        print_log(
            '\n'.join([f'{kind} by {self.eval_class.__name__}:'] +
                      [self._row(name, values[name]) for name in names]),
            logger='current')
        if kind != 'proposal':
            metrics.update(self._class_precisions(kind, precision))
        return metrics

    def _category_numbers(self) -> list[int]:
        """Numbers of the categories of the classes."""
        return [self._coco_api.category_numbers[id_] for id_ in self.cat_ids]

    def _precisions(self, precision: np.ndarray) -> dict[str, float]:
        """Six average precisions.

        Args:
            precision (np.ndarray): (IoU thresholds, recalls, classes, areas,
                ``proposal_nums``); -1 without ground truth.
        """
        most = precision[..., -1]
        values = [
            precision[:, :, :, 0, np.equal(self.proposal_nums, 100)],
            most[self.iou_thrs == 0.5, ...,
                 0], most[self.iou_thrs == 0.75, ...,
                          0], *(most[..., area] for area in (1, 2, 3))
        ]
        return dict(zip(AP_NAMES, map(_mean, values)))

    def _recalls(self, recall: np.ndarray) -> dict[str, float]:
        """Six average recalls.

        Args:
            recall (np.ndarray): (IoU thresholds, classes, areas,
                ``proposal_nums``); -1 without ground truth.
        """
        values = [recall[:, :, 0, i] for i in (0, 1, 2)]
        values += [recall[:, :, area, 2] for area in (1, 2, 3)]
        return dict(zip(self._recall_names(), map(_mean, values)))

    def _row(self, name: str, value: float) -> str:
        """Line of COCO's table of results."""
        stem, _, most = name.partition('@')
        kind, _, part = stem.partition('_')
        title = TITLES[kind]
        iou = f'{self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f}'
        if part.isdigit():
            iou = f'0.{part}'
        most = most or str(100 if name == 'mAP' else self.proposal_nums[-1])
        return (f' {title} @[ IoU={iou:9} | area={AREAS.get(part, "all"):>6} | '
                f'maxDets={most:>3} ] = {value:.3f}')

    def _class_precisions(self, kind: str,
                          precision: np.ndarray) -> dict[str, float]:
        """Set ``per_class``, and return it as metrics if ``classwise``."""
        # Classes of `precision` are in the order of their ids.
        categories = self._coco_api.loadCats(sorted(self._category_numbers()))
        names = [category['name'] for category in categories]
        values = np.ma.masked_equal(precision[:, :, :, 0, -1], -1).mean((0, 1))
        values = np.ma.filled(values, np.nan)
        self.per_class[f'{kind} AP'] = by_class(names, values)
        if not self.classwise:
            return {}
        metrics = {}
        for name, value in zip(names, values):
            metrics[f'{name}_precision'] = float(value)
            metrics[f'{kind}_{name}_precision'] = float(value)
        width = max(map(len, names))
        MMLogger.get_current_instance().info(
            '\n'.join([f'{kind} AP by class:'] + [
                f'{name:{width}}  {value:.3f}'
                for name, value in zip(names, values)
            ]))
        return metrics


def _mean(values: np.ndarray) -> float:
    """Mean of the values other than -1; -1 without any."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.
