"""Analysis of the predictions of a test run, with figures."""
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as mask_api
from mmhier.analysis.error_figures import (
    draw_class_bars,
    draw_classes,
    draw_confusion_matrix,
    draw_errors,
    draw_outlines,
    draw_sheet,
)
from mmhier.analysis.error_types import (
    ERROR_TYPES,
    SIZES,
    ImageDetections,
    ImageErrors,
    assign_errors,
    average_precision_gains,
    class_ious,
    count_confusions,
    count_errors,
    count_pixel_confusions,
    errors_above,
    largest_confusions,
)
from mmhier.errors import MMHierError
from mmhier.evaluation.per_class import by_class
from mmhier.evaluation.predictions import read_predictions
from mmhier.files import make_writable, write_text

RESULT_NAME = 'analysis.json'
# Of the drawn images, in pixels.
_LONG_SIDE = 560
# In RGB.
_COLOURS = dict(
    right=(70, 170, 70),
    localisation=(255, 165, 0),
    classification=(200, 80, 220),
    duplicate=(70, 130, 255),
    background=(150, 75, 0),
    both=(0, 190, 190),
    missed=(225, 40, 40),
    ignored=(150, 150, 150))
_OBJECT_COLOURS = dict(
    found=_COLOURS['right'],
    mistaken=_COLOURS['localisation'],
    missed=_COLOURS['missed'],
    crowd=_COLOURS['ignored'])


def analyze_results(cfg: Config,
                    predictions: str | Path,
                    out_dir: str | Path,
                    *,
                    iou_type: str = 'bbox',
                    score_threshold: float = 0.3,
                    num_worst: int = 8,
                    overwrite: bool = False) -> dict[str, Any]:
    """Analyze the errors of a model, in numbers and figures.

    Written to ``out_dir`` are analysis.json, confusion_matrix.png,
    worst_images.png (ground truth left), and class_ap.png and errors.png for
    detectors or class_iou.png for segmentors.

    Args:
        cfg (Config): Config of the test run, of mmdet or mmseg.
        predictions (str | Path): File that ``tools/test.py --out`` wrote.
        out_dir (str | Path): Folder for the results; created if missing.
        iou_type (str): Regions of detections to compare, 'bbox' or 'segm'.
            Defaults to 'bbox'.
        score_threshold (float): Minimum score of detections in the confusion
            matrix and on the sheet of images. Defaults to 0.3.
        num_worst (int): Images on the sheet. Defaults to 8.
        overwrite (bool): Replace results in ``out_dir``. Defaults to False.

    Returns:
        dict: Content of analysis.json.

    Raises:
        MMHierError: If the config is of another package, results exist, or
            the predictions cannot be read or belong to other data.
    """
    out_dir = Path(out_dir)
    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        raise MMHierError('predictions of detectors (mmdet) and segmentors '
                          f'(mmseg) can be analyzed, not those of {scope}')
    if (out_dir / RESULT_NAME).exists() and not overwrite:
        raise MMHierError(f'{out_dir} holds an analysis: choose another '
                          'folder, or replace it with --overwrite')
    make_writable('--out', out_dir)
    samples = read_predictions(predictions)
    init_default_scope(scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if scope == 'mmdet':
        _check_samples(samples, infos, 'img_id', 'pred_instances')
        result = _analyze_detections(cfg, dataset.metainfo, infos, samples,
                                     out_dir, iou_type, score_threshold,
                                     num_worst)
    else:
        _check_samples(samples, infos, 'img_path', 'pred_sem_seg')
        result = _analyze_segmentation(dataset.metainfo, infos, samples,
                                       out_dir, num_worst)
    write_text(out_dir / RESULT_NAME, json.dumps(result, indent=1))
    return result


def _check_samples(samples: list[dict], infos: list[dict], key: str,
                   field: str) -> None:
    """Sort the predictions in the order of the images."""
    by_image = {sample.get(key): sample for sample in samples}
    wanted = [info[key] for info in infos]
    missing = [image for image in wanted if image not in by_image]
    if missing or len(samples) != len(infos):
        raise MMHierError(
            f'there are predictions of {len(samples)} images for the '
            f'{len(infos)} of the test set, and none of {len(missing)} of '
            f'them{f", such as {missing[0]}" if missing else ""}: they were '
            'written with other data')
    samples[:] = [by_image[image] for image in wanted]
    lacking = [sample[key] for sample in samples if field not in sample]
    if lacking:
        raise MMHierError(f'the predictions of {lacking[0]} have no '
                          f'{field}: they were written by another model')


def _analyze_detections(cfg: Config, metainfo: dict, infos: list[dict],
                        samples: list[dict], out_dir: Path, iou_type: str,
                        score_threshold: float,
                        num_worst: int) -> dict[str, Any]:
    classes = list(metainfo['classes'])
    if iou_type == 'segm' and any('masks' not in sample['pred_instances']
                                  for sample in samples):
        raise MMHierError('there are no masks in the predictions: '
                          "analyze the boxes with iou_type='bbox'")
    images = [
        _image_detections(info, sample, iou_type, len(classes))
        for info, sample in zip(infos, samples)
    ]
    metrics, precisions = _coco_metrics(cfg, metainfo, infos, samples, iou_type)
    labels = np.concatenate([image.true_labels for image in images])
    numbers = np.bincount(labels, minlength=len(classes)).tolist()
    draw_class_bars(precisions, dict(zip(classes, numbers)), f'{iou_type} AP',
                    'objects', out_dir / 'class_ap.png')
    matrix = count_confusions(images, len(classes), score_threshold)
    names = [*classes, 'background']
    draw_confusion_matrix(matrix, names, [*classes, 'missed'],
                          out_dir / 'confusion_matrix.png')
    errors = [assign_errors(image) for image in images]
    counts = count_errors(images, errors)
    gains = average_precision_gains(images, errors, len(classes))
    by_size = {size: metrics[f'{iou_type}_mAP_{size[0]}'] for size in SIZES}
    draw_errors(counts, gains, by_size, out_dir / 'errors.png')
    captions = _draw_worst_detections(infos, samples, images, [
        errors_above(image, error, score_threshold)
        for image, error in zip(images, errors)
    ], classes, iou_type, out_dir, num_worst)
    return dict(
        task='detection',
        iou_type=iou_type,
        score_threshold=score_threshold,
        num_images=len(images),
        metrics=metrics,
        classes={
            name: dict(AP=precisions[name], objects=number)
            for name, number in zip(classes, numbers)
        },
        AP50=gains['AP50'],
        errors={
            kind:
            dict(
                AP50_lost=gains[kind],
                count=sum(counts[kind].values()),
                **counts[kind])
            for kind in ERROR_TYPES
        },
        confusion_matrix=matrix.tolist(),
        largest_confusions=largest_confusions(matrix, names),
        worst_images=captions)


def _draw_worst_detections(infos: list[dict], samples: list[dict],
                           images: Sequence[ImageDetections],
                           errors: Sequence[ImageErrors], classes: list[str],
                           iou_type: str, out_dir: Path,
                           number: int) -> list[str]:
    shown = [
        Counter(kind for kind in [*error.detections, *error.objects]
                if kind in ERROR_TYPES) for error in errors
    ]
    texts = [
        ', '.join(f'{count} {kind}'
                  for kind, count in counter.items()) or 'no error'
        for counter in shown
    ]

    def draw(i: int) -> np.ndarray:
        return _draw_detections(infos[i], samples[i], images[i], errors[i],
                                classes, iou_type)

    legend = {**_COLOURS, 'mistaken (left)': _OBJECT_COLOURS['mistaken']}
    return _draw_worst([counter.total() for counter in shown], texts, infos,
                       draw, legend, out_dir, number)


def _draw_worst(errors: Sequence[float], texts: Sequence[str],
                infos: list[dict], draw: Callable[[int], np.ndarray],
                legend: dict, out_dir: Path, number: int) -> list[str]:
    """Draw the images with most errors, and return their captions."""
    worst = sorted(range(len(infos)), key=lambda i: -errors[i])[:number]
    captions = [f'{Path(infos[i]["img_path"]).name}: {texts[i]}' for i in worst]
    pictures = [draw(i) for i in worst]
    draw_sheet(
        list(zip(pictures, captions)), legend, out_dir / 'worst_images.png')
    return captions


def _image_detections(info: dict, sample: dict, iou_type: str,
                      num_classes: int) -> ImageDetections:
    """Detections and objects of an image with their overlaps."""
    found = sample['pred_instances']
    labels = np.asarray(found['labels']).astype(int)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise MMHierError(
            f'the predictions of {info["img_path"]} are of class '
            f'{labels.max()}, and the test set has {num_classes} classes')
    instances = info['instances']
    is_crowd = np.array([item['ignore_flag'] for item in instances], bool)
    boxes = np.array([item['bbox'] for item in instances], float)
    regions: Any = _to_xywh(np.asarray(found['bboxes'], float))
    truth: Any = _to_xywh(boxes)
    areas, true_areas = regions[:, 2:].prod(1), truth[:, 2:].prod(1)
    masks = [
        _to_rle(item['mask'], info) for item in instances if 'mask' in item
    ]
    if len(masks) == len(instances) and masks:
        true_areas = mask_api.area(masks).astype(float)
    if iou_type == 'segm':
        regions, truth = list(found['masks']), masks
        if regions:
            areas = mask_api.area(regions).astype(float)
        if len(truth) != len(instances):
            raise MMHierError(
                f'{info["img_path"]} has objects without masks in the test '
                "set: analyze the boxes with iou_type='bbox'")
    ious = np.zeros((len(labels), len(instances)))
    if ious.size:
        ious = mask_api.iou(regions, truth, is_crowd.astype(np.uint8))
    return ImageDetections(
        labels=labels,
        scores=np.asarray(found['scores'], float),
        areas=areas,
        true_labels=np.array([item['bbox_label'] for item in instances], int),
        true_areas=true_areas,
        is_crowd=is_crowd,
        ious=ious)


def _to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) of corners as corner and size."""
    boxes = boxes.reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


def _to_rle(mask: dict | list, info: dict) -> dict:
    """Compressed RLE of an annotation's polygons or RLE."""
    size = info['height'], info['width']
    if isinstance(mask, list):
        return mask_api.merge(mask_api.frPyObjects(mask, *size))
    if isinstance(mask['counts'], list):
        return mask_api.frPyObjects(mask, *size)
    return mask


def _coco_metrics(cfg: Config, metainfo: dict, infos: list[dict],
                  samples: list[dict],
                  iou_type: str) -> tuple[dict, dict[str, float | None]]:
    """COCO metrics, and AP by class; of ``ann_file`` or of the dataset."""
    from mmhier.evaluation.coco_metric import CocoMetric
    evaluator = cfg.test_evaluator
    ann_file = evaluator.get('ann_file') if isinstance(evaluator,
                                                       dict) else None
    metric = CocoMetric(ann_file=ann_file, metric=iou_type)
    metric.dataset_meta = metainfo
    metric.process({}, [
        dict(sample, instances=info['instances'])
        for info, sample in zip(infos, samples)
    ])
    metrics = metric.compute_metrics(metric.results)
    return metrics, metric.per_class[f'{iou_type} AP']


def _draw_detections(info: dict, sample: dict, image: ImageDetections,
                     errors: ImageErrors, classes: list[str],
                     iou_type: str) -> np.ndarray:
    """Objects and detections side by side, (H, 2 W, 3) in RGB."""
    photo, factor = _read_image(info['img_path'])
    crowds_last = sorted(info['instances'], key=lambda i: i['ignore_flag'])
    objects = [*errors.objects, *['crowd'] * len(image.crowd_labels)]
    truth = [(_OBJECT_COLOURS[kind], classes[item['bbox_label']] +
              ' (crowd)' * (kind == 'crowd'), item['bbox'],
              _to_rle(item['mask'], info) if iou_type == 'segm' else None)
             for kind, item in zip(objects, crowds_last)]
    found = sample['pred_instances']
    detections = []
    for kind, index in zip(errors.detections, image.order):
        text = f'{classes[int(found["labels"][index])]} ' \
               f'{float(found["scores"][index]):.2f}'
        mask = found['masks'][index] if iou_type == 'segm' else None
        detections.append(
            (_COLOURS[kind], text, np.asarray(found['bboxes'][index]), mask))
    sides = []
    for regions in (truth, detections):
        # Errors are drawn over correct regions.
        regions.sort(key=lambda region: region[0] == _COLOURS['right'])
        colours, texts, boxes, masks = zip(*regions) if regions else [()] * 4
        outlines = [
            _outline(box, mask, factor, photo.shape)
            for box, mask in zip(boxes, masks)
        ]
        sides.append(draw_outlines(photo, outlines, texts, colours))
    return np.hstack(sides)


def _outline(box: Sequence[float], mask: dict | None, factor: float,
             shape: Sequence[int]) -> list[np.ndarray]:
    """Polygons of a mask, or of a box without one, scaled for drawing."""
    if mask is None:
        x1, y1, x2, y2 = np.clip(
            np.array(box) * factor, 0, (shape[1], shape[0]) * 2)
        return [np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])]
    decoded = cv2.resize(mask_api.decode(mask), shape[1::-1])
    return list(
        cv2.findContours(decoded, cv2.RETR_EXTERNAL,
                         cv2.CHAIN_APPROX_SIMPLE)[0])


def _analyze_segmentation(metainfo: dict, infos: list[dict],
                          samples: list[dict], out_dir: Path,
                          num_worst: int) -> dict[str, Any]:
    from mmseg.datasets.transforms import LoadAnnotations
    classes = list(metainfo['classes'])
    load_truth = LoadAnnotations()
    matrices, shares = [], []
    for info, sample in zip(infos, samples):
        truth = load_truth(dict(info))['gt_seg_map']
        found = np.asarray(sample['pred_sem_seg']['data']).squeeze()
        if found.shape != truth.shape or found.max() >= len(classes):
            raise MMHierError(
                f'the prediction of {info["img_path"]} has {found.shape} '
                f'pixels of classes up to {found.max()}, its annotation '
                f'{truth.shape}, and there are {len(classes)} classes')
        matrix = count_pixel_confusions(truth, found, len(classes))
        matrices.append(matrix)
        shares.append(1 - np.trace(matrix) / max(matrix.sum(), 1))
    matrix = np.sum(matrices, 0)
    values = class_ious(matrix)
    ious = by_class(classes, values)
    pixels = dict(zip(classes, matrix.sum(1).tolist()))
    draw_class_bars(ious, pixels, 'IoU', 'pixels', out_dir / 'class_iou.png')
    draw_confusion_matrix(matrix, classes, classes,
                          out_dir / 'confusion_matrix.png')
    captions = _draw_worst(
        shares,
        [f'{100 * share:.1f} % of the pixels wrong' for share in shares], infos,
        lambda i: _draw_segmentation(infos[i], samples[i], metainfo, load_truth
                                     ), {}, out_dir, num_worst)
    return dict(
        task='segmentation',
        num_images=len(samples),
        metrics=dict(
            mIoU=float(np.nanmean(values)),
            aAcc=float(np.trace(matrix) / matrix.sum())),
        classes={
            name: dict(IoU=ious[name], pixels=pixels[name])
            for name in classes
        },
        confusion_matrix=matrix.tolist(),
        largest_confusions=largest_confusions(matrix, classes),
        worst_images=captions)


def _draw_segmentation(info: dict, sample: dict, metainfo: dict,
                       load_truth: Any) -> np.ndarray:
    """Ground truth and prediction side by side, (H, 2 W, 3) in RGB."""
    image, _ = _read_image(info['img_path'])
    palette = metainfo.get('palette') or np.random.default_rng(0).integers(
        40, 256, (len(metainfo['classes']), 3)).tolist()
    truth = load_truth(dict(info))['gt_seg_map']
    found = np.asarray(sample['pred_sem_seg']['data']).squeeze()
    return np.hstack([
        draw_classes(
            image,
            cv2.resize(
                labels.astype(np.uint8),
                image.shape[1::-1],
                interpolation=cv2.INTER_NEAREST), metainfo['classes'],
            [tuple(colour) for colour in palette]) for labels in (truth, found)
    ])


def _read_image(path: str) -> tuple[np.ndarray, float]:
    """RGB image resized for drawing, and the scale factor."""
    image = mmcv.imread(path, channel_order='rgb')
    if image is None:
        raise MMHierError(f'{path} cannot be read')
    factor = _LONG_SIDE / max(image.shape[:2])
    size = [round(side * factor) for side in image.shape[1::-1]]
    return cv2.resize(image, size), factor
