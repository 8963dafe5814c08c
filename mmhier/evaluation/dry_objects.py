"""Dry evaluation of objects: annotations of COCO as predictions."""
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmhier.datasets.coco_checks import (
    check_annotations,
    describe_left_out,
    read_coco,
)
from mmhier.errors import MMHierError
from mmhier.progress import track
from .trial import Trial

_MAX_OBJECTS = 100  # COCO's mAP takes as many of an image and a class.
_PERFECT = ('mAP', 'mAP_50', 'mAP_75')


def evaluate_objects(trial: Trial) -> tuple[dict[str, float], str]:
    """Evaluate annotations as predictions by a CocoMetric.

    Args:
        trial (Trial): Of a CocoMetric.

    Returns:
        tuple[dict[str, float], str]: Metrics, and a line on them, with what
        lowers the score rightly.

    Raises:
        MMHierError: If the evaluator scores other images or objects than the
            dataloader loads, or perfect predictions do not score 1.
    """
    key, metric, dataset = trial.key, trial.metric, trial.dataset
    with_masks = 'segm' in metric.metrics
    ann_file = trial.settings.get('ann_file')
    truth = None
    if ann_file is not None and '://' not in ann_file:
        truth = _Truth(key, ann_file, dataset.metainfo['classes'])
        if with_masks:
            check_annotations(ann_file, with_masks=True)
        if hasattr(metric, 'share_annotations'):
            metric.share_annotations(read_coco(ann_file))
        _check_images(truth, trial)
        if not truth.objects:
            raise MMHierError(f'{key}.ann_file={ann_file} has no object to '
                              'score: every AP would be -1')
    lowered: Counter[str] = Counter()
    seen = []
    for i in track(trial.indices, 'Dry evaluation'):
        info = dataset.get_data_info(i)
        objects = [o for o in info['instances'] if not o['ignore_flag']]
        if truth is not None:
            truth.compare(info, objects, lowered)
        for label, number in Counter(o['bbox_label'] for o in objects).items():
            if number > _MAX_OBJECTS:
                lowered[f'objects are beyond the {_MAX_OBJECTS} of an image '
                        'and a class that COCO scores'] += number - _MAX_OBJECTS
        if metric.metrics[0].startswith('proposal') and len(
                objects) > metric.proposal_nums[-1]:
            lowered['images have more objects than proposals are scored'] += 1
        sample = _as_predictions(info, objects, with_masks, lowered)
        metric.process({}, [sample])
        seen.append(info['img_id'])
    if getattr(metric, '_coco_api', None) is not None:
        # mmdet's own metric would score the images that are left out.
        metric.img_ids = seen
    values = metric.compute_metrics(metric.results)
    recall = f'AR@{metric.proposal_nums[-1]}'  # of proposals
    scores = {
        k: v
        for k, v in values.items()
        if k == recall or (k.partition('_')[2] in _PERFECT
                           and k.partition('_')[0] in ('bbox', 'segm'))
    }
    if scores and all(v == -1 for v in scores.values()):
        return values, f'{len(seen)} images hold no object to score'
    # Of an IoU that is not evaluated.
    scores = {k: v for k, v in scores.items() if v != -1}
    if not scores:
        return values, f'no AP is evaluated on {len(seen)} images'
    low = [f'{k} {v:.3f}' for k, v in scores.items() if v < 0.9995]
    if low and not lowered:
        raise MMHierError(
            f'{key}: perfect predictions score {", ".join(low)} on '
            f'{len(seen)} images, where 1 is expected: the metric reads the '
            'annotations otherwise than the dataset does')
    note = (f'perfect predictions on {len(seen)} images score ' +
            ', '.join(f'{k} {v:.3f}' for k, v in scores.items()))
    return values, '; '.join([note, *(f'{n} {r}' for r, n in lowered.items())])


def _as_predictions(info: dict, objects: Sequence[dict], with_masks: bool,
                    lowered: Counter[str]) -> dict[str, Any]:
    """Data sample whose predictions are the annotated objects."""
    boxes = np.array([o['bbox'] for o in objects], np.float64).reshape(-1, 4)
    labels = np.array([o['bbox_label'] for o in objects], np.int64)
    predicted: dict[str, Any] = dict(
        bboxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        scores=torch.ones(len(objects)))
    if with_masks:
        from pycocotools import mask
        predicted['masks'] = _encode([o['mask'] for o in objects],
                                     info['height'], info['width'])
        empty = np.count_nonzero(mask.area(predicted['masks']) == 0)
        if empty:
            lowered['masks cover no pixel'] += empty
    return dict(
        img_id=info['img_id'],
        ori_shape=(info['height'], info['width']),
        instances=info['instances'],
        pred_instances=predicted)


def _encode(segmentations: Sequence[Any], height: int,
            width: int) -> list[dict[str, Any]]:
    """RLE of polygons, or of RLE that is not compressed, of an image."""
    from pycocotools import mask

    def is_outline(segmentation: Any) -> bool:
        # pycocotools takes four numbers for a box.
        return isinstance(segmentation, list) and min(map(len,
                                                          segmentation)) > 4

    outlines = [s for s in segmentations if is_outline(s)]
    # One call for all: most of its time does not depend on their number.
    parts = iter(
        mask.frPyObjects([p for s in outlines
                          for p in s], height, width) if outlines else ())
    encoded = []
    for segmentation in segmentations:
        if is_outline(segmentation):
            own = list(islice(parts, len(segmentation)))
            encoded.append(own[0] if len(own) == 1 else mask.merge(own))
        elif isinstance(segmentation, list):
            encoded.append(
                mask.merge(mask.frPyObjects(segmentation, height, width)))
        elif isinstance(segmentation['counts'], list):
            encoded.append(mask.frPyObjects(segmentation, height, width))
        else:
            encoded.append(segmentation)
    return encoded


class _Truth:
    """Objects that an evaluator scores, by image.

    Args:
        key (str): Key of the metric.
        path (str): Its annotation file.
        classes (Sequence[str]): Of the dataset.
    """

    def __init__(self, key: str, path: str, classes: Sequence[str]):
        self.key = key
        self.path = path
        coco = read_coco(path)
        self.images = {image['id']: image for image in coco['images']}
        labels = {
            category['id']: classes.index(category['name'])
            for category in coco['categories'] if category['name'] in classes
        }
        if len(labels) < len(classes):
            raise MMHierError(
                f'{key}.ann_file={path} has {len(labels)} of the '
                f'{len(classes)} classes of the dataset: it has to be the '
                'annotation file of the dataset')
        self.objects: dict[Any, list] = defaultdict(list)
        for annotation in coco['annotations']:
            label = labels.get(annotation['category_id'])
            if label is not None and not annotation.get('iscrowd'):
                self.objects[annotation['image_id']].append((label, annotation))

    def compare(self, info: dict, loaded: Sequence[dict],
                lowered: Counter[str]) -> None:
        """Compare the objects of an image; count those left out in loading.

        Raises:
            MMHierError: If the evaluator has other objects.
        """
        image = self.images[info['img_id']]
        scored = []
        for label, annotation in self.objects[info['img_id']]:
            reason = describe_left_out(annotation, image['width'],
                                       image['height'])
            if reason:
                lowered[f'objects {reason} in loading, but scored'] += 1
            else:
                x, y, w, h = annotation['bbox']
                scored.append((label, x, y, x + w, y + h))
        scored.sort()
        found = sorted((o['bbox_label'], *o['bbox']) for o in loaded)
        if scored != found and not (len(scored) == len(found)
                                    and np.allclose(scored, found)):
            raise MMHierError(
                f'{self.key}.ann_file={self.path} has {len(scored)} objects '
                f'in image {info["img_id"]}, and the dataset {len(found)} or '
                f'others in {info["img_path"]}: it has to be the annotation '
                'file of the dataset')


def _check_images(truth: _Truth, trial: Trial) -> None:
    """Compare the images of an evaluator with those of a dataset."""
    files = [
        osp.join(d.get('data_root') or '', str(d.get('ann_file')))
        for _, d in trial.datasets
    ]
    whole = not any(d.get('indices') for _, d in trial.datasets)
    if (whole and len(files) == 1
            and osp.realpath(files[0]) == osp.realpath(truth.path)
            and len(trial.dataset) <= len(truth.images)):
        return
    owners: dict[Any, str] = {}
    for i in range(len(trial.dataset)):
        info = trial.dataset.get_data_info(i)
        number, path = info['img_id'], info['img_path']
        if owners.get(number) == path:
            raise MMHierError(
                f'{truth.key}: {path} is in the dataset twice, so its second '
                'detections count as false: load each image once')
        if owners.setdefault(number, path) != path:
            raise MMHierError(
                f'{truth.key}: {owners[number]} and {path} have the same id '
                f'{number}, so their scores would be mixed up: number the '
                'images of all datasets anew, and merge their annotation files '
                'for the evaluator')
        image = truth.images.get(number)
        if image is None or not path.endswith(image['file_name']):
            other = 'no image' if image is None else image['file_name']
            raise MMHierError(
                f'{truth.key}.ann_file={truth.path} has {other} with the id '
                f'{number} of {path}: it has to be the annotation file of the '
                f'dataset, {files[0]}')
    unseen = [i for i in truth.images if i not in owners]
    if unseen and not hasattr(trial.metric, 'per_class'):
        raise MMHierError(
            f'{truth.key} scores {len(unseen)} images that the dataset does '
            f'not load, such as image {unseen[0]}, as if nothing was found in '
            "them: set type='mmhier.CocoMetric', which scores those loaded")
