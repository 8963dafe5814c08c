"""Error types of detectors and confusion matrices.

Error types are those of TIDE (Bolya et al., ECCV 2020,
https://arxiv.org/abs/2008.08115), computed from the overlaps of boxes or
masks.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Types of detections, in the order of TIDE's tests, and of objects.
ERROR_TYPES = ('localisation', 'classification', 'duplicate', 'background',
               'both', 'missed')
SIZES = ('small', 'medium', 'large')
_SIZE_BOUNDS = (32**2, 96**2)
_MAX_DETECTIONS = 100


@dataclass
class ImageDetections:
    """Objects and detections of an image.

    Attributes:
        labels (np.ndarray): Class of each of n detections.
        scores (np.ndarray): (n, ) their scores.
        areas (np.ndarray): (n, ) their areas, in pixels.
        true_labels (np.ndarray): Class of each of m objects.
        true_areas (np.ndarray): (m, ) their areas, in pixels.
        is_crowd (np.ndarray): (m, ) whether an object is a crowd, in which
            detections of its class are not counted.
        ious (np.ndarray): (n, m) intersection over union; for crowds over
            the area of the detection.

    The constructor sorts detections by falling score (``order``), keeps the
    best 100 and separates crowds from the objects.
    """
    labels: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    true_labels: np.ndarray
    true_areas: np.ndarray
    is_crowd: np.ndarray
    ious: np.ndarray

    def __post_init__(self) -> None:
        self.ious = np.asarray(self.ious, float).reshape(
            len(self.labels), len(self.true_labels))
        self.order = np.argsort(-self.scores, kind='stable')[:_MAX_DETECTIONS]
        for name in ('labels', 'scores', 'areas', 'ious'):
            setattr(self, name, getattr(self, name)[self.order])
        kept = ~self.is_crowd
        self.crowd_labels = self.true_labels[~kept]
        self.crowd_ious = self.ious[:, ~kept]
        self.ious = self.ious[:, kept]
        self.true_labels = self.true_labels[kept]
        self.true_areas = self.true_areas[kept]


@dataclass
class ImageErrors:
    """Kind of each detection and object of an image.

    Attributes:
        detections (list[str]): Per detection, by falling score: one of
            :data:`ERROR_TYPES`, 'right', or 'ignored' within a crowd.
        targets (np.ndarray): (n, ) the object that a detection found, or
            would have found without its error; -1 for none.
        objects (list[str]): Per object that is no crowd: 'found', 'missed',
            or 'mistaken' where a localisation or classification error
            accounts for it.
    """
    detections: list[str]
    targets: np.ndarray
    objects: list[str]


def assign_errors(image: ImageDetections,
                  foreground_iou: float = 0.5,
                  background_iou: float = 0.1) -> ImageErrors:
    """Classify the detections and objects of an image by TIDE's rules.

    By falling score, a detection matches the free object of its class with
    the largest overlap, at least ``foreground_iou``. The type of the others
    is the first that applies:

    - 'localisation': insufficient overlap with an object of its class;
    - 'classification': sufficient overlap with an object of another class;
    - 'duplicate': sufficient overlap with a matched object of its class;
    - 'background': no overlap;
    - 'both': insufficient overlap with an object of another class.

    Unmatched objects are 'missed' unless they are the target of a
    localisation or classification error.

    Args:
        image (ImageDetections): Detections and objects.
        foreground_iou (float): Minimum sufficient IoU. Defaults to 0.5.
        background_iou (float): Maximum IoU of no overlap. Defaults to 0.1.
    """
    num_detections, num_objects = image.ious.shape
    targets = np.full(num_detections, -1)
    own_class = image.labels[:, None] == image.true_labels[None]
    # At least one column, of zeros without objects.
    own, other = (
        np.pad(image.ious * mask, ((0, 0), (0, not num_objects)))
        for mask in (own_class, ~own_class))
    free = np.ones(own.shape[1], bool)
    for i in range(num_detections):
        if (own[i] * free).max() >= foreground_iou:
            targets[i] = (own[i] * free).argmax()
            free[targets[i]] = False
    in_crowd = ((image.crowd_ious >= foreground_iou) &
                (image.crowd_labels == image.labels[:, None])).any(1)
    kinds = []
    for i in range(num_detections):
        best_own, best_other = own[i].max(), other[i].max()
        if targets[i] >= 0:
            kinds.append('right')
        elif in_crowd[i]:
            kinds.append('ignored')
        elif background_iou <= best_own <= foreground_iou:
            kinds.append('localisation')
            targets[i] = own[i].argmax()
        elif best_other >= foreground_iou:
            kinds.append('classification')
            targets[i] = other[i].argmax()
        elif best_own >= foreground_iou:
            kinds.append('duplicate')
            targets[i] = own[i].argmax()
        elif max(best_own, best_other) <= background_iou:
            kinds.append('background')
        else:
            kinds.append('both')
            targets[i] = other[i].argmax()
    return ImageErrors(kinds, targets, _object_kinds(kinds, targets,
                                                     num_objects))


def errors_above(image: ImageDetections, errors: ImageErrors,
                 score_threshold: float) -> ImageErrors:
    """Errors of the detections with at least a score."""
    number = int((image.scores >= score_threshold).sum())
    kinds, targets = errors.detections[:number], errors.targets[:number]
    return ImageErrors(kinds, targets,
                       _object_kinds(kinds, targets, len(errors.objects)))


def _object_kinds(kinds: list[str], targets: np.ndarray,
                  num_objects: int) -> list[str]:
    """'found', 'mistaken' or 'missed', for every object."""
    objects = ['missed'] * num_objects
    for kind, target in zip(kinds, targets):
        if kind == 'right':
            objects[target] = 'found'
        elif kind in ('localisation', 'classification'):
            if objects[target] == 'missed':
                objects[target] = 'mistaken'
    return objects


def count_errors(images: Sequence[ImageDetections],
                 errors: Sequence[ImageErrors]) -> dict[str, dict[str, int]]:
    """Number of errors by type and by size of the detection or object.

    Small is below 32 x 32 pixels, large from 96 x 96 on.

    Returns:
        dict[str, dict[str, int]]: By :data:`ERROR_TYPES` and :data:`SIZES`.
    """
    counts = {kind: dict.fromkeys(SIZES, 0) for kind in ERROR_TYPES}
    for image, error in zip(images, errors):
        kinds = [*error.detections, *error.objects]
        areas = np.concatenate([image.areas, image.true_areas])
        for kind, size in zip(kinds, np.digitize(areas, _SIZE_BOUNDS)):
            if kind in counts:
                counts[kind][SIZES[size]] += 1
    return counts


def average_precision(scores: np.ndarray, is_right: np.ndarray,
                      num_objects: int) -> float:
    """COCO's average precision: the mean at 101 recalls.

    Args:
        scores (np.ndarray): (n, ) scores of detections.
        is_right (np.ndarray): (n, ) whether they found an object.
        num_objects (int): Objects there are, at least 1.
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    right = np.cumsum(np.asarray(is_right, float)[order])
    precision = right / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / num_objects, np.linspace(0, 1, 101))
    return float(precision[at[at < len(right)]].sum() / 101)


def average_precision_gains(images: Sequence[ImageDetections],
                            errors: Sequence[ImageErrors],
                            num_classes: int) -> dict[str, float]:
    """AP50 gained by correcting all errors of one type.

    TIDE's oracles: a localisation or classification error becomes right, the
    one of the highest score if several have the same target, and is dropped
    if the target is found; other wrong detections are dropped; missed objects
    are removed. Unlike in TIDE, which uses 0, classes without objects have no
    average precision, as in COCO.

    Returns:
        dict[str, float]: Gains by :data:`ERROR_TYPES`, and 'AP50'.
    """
    kinds = np.array([kind for error in errors for kind in error.detections],
                     dtype=object)
    labels, scores, corrected = (
        np.concatenate(arrays)[kinds != 'ignored'] for arrays in (
            [image.labels
             for image in images], [image.scores for image in images],
            [_corrected_labels(*pair) for pair in zip(images, errors)]))
    kinds = kinds[kinds != 'ignored']
    right = kinds == 'right'
    objects = np.concatenate([image.true_labels for image in images])
    missed = np.array([kind for error in errors for kind in error.objects],
                      dtype=object) == 'missed'
    num_objects = np.bincount(objects, minlength=num_classes)
    classes = np.flatnonzero(num_objects)

    def mean_ap(labels: np.ndarray, right: np.ndarray, kept: Any,
                num_objects: np.ndarray) -> float:
        values = []
        for i in classes:
            chosen = kept & (labels == i)
            if num_objects[i]:
                values.append(
                    average_precision(scores[chosen], right[chosen],
                                      num_objects[i]))
            elif chosen.any():
                values.append(0.)
        return float(np.mean(values)) if values else 0.

    base = mean_ap(labels, right, True, num_objects)
    gains = {}
    for kind in ERROR_TYPES[:-1]:
        wrong = kinds == kind
        fixed = wrong & (corrected >= 0)
        gains[kind] = mean_ap(
            np.where(fixed, corrected, labels), right | fixed, ~wrong | fixed,
            num_objects)
    gains['missed'] = mean_ap(
        labels, right, True,
        num_objects - np.bincount(objects[missed], minlength=num_classes))
    return dict(AP50=base, **{k: max(v - base, 0.) for k, v in gains.items()})


def _corrected_labels(image: ImageDetections,
                      errors: ImageErrors) -> np.ndarray:
    """(n, ) true class of detections that a correction makes right, else -1.
    """
    labels, taken = np.full(len(image.labels), -1), set()
    # Scores fall, so that the best of several comes first.
    for i, (kind, target) in enumerate(zip(errors.detections, errors.targets)):
        if (kind in ('localisation', 'classification')
                and errors.objects[target] != 'found' and target not in taken):
            taken.add(target)
            labels[i] = image.true_labels[target]
    return labels


def count_confusions(images: Sequence[ImageDetections],
                     num_classes: int,
                     score_threshold: float = 0.3,
                     iou_threshold: float = 0.5) -> np.ndarray:
    """Confusion matrix of detections.

    By falling score, a detection matches the free object of any class with
    the largest overlap. Detections within a crowd are left out.

    Returns:
        np.ndarray: (num_classes + 1, num_classes + 1) numbers, rows by the
        true class, columns by the one found. The last column counts missed
        objects, the last row detections without an object.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in images:
        free = np.ones(len(image.true_labels), bool)
        for i in np.flatnonzero(image.scores >= score_threshold):
            overlaps = image.ious[i] * free
            if overlaps.size and overlaps.max() >= iou_threshold:
                target = overlaps.argmax()
                free[target] = False
                matrix[image.true_labels[target], image.labels[i]] += 1
            elif not (image.crowd_ious[i] >= iou_threshold).any():
                matrix[num_classes, image.labels[i]] += 1
        np.add.at(matrix[:, num_classes], image.true_labels[free], 1)
    return matrix


def count_pixel_confusions(truth: np.ndarray,
                           prediction: np.ndarray,
                           num_classes: int,
                           ignore_index: int = 255) -> np.ndarray:
    """Confusion matrix of the pixels of an image.

    Args:
        truth (np.ndarray): (H, W) classes, or ``ignore_index``.
        prediction (np.ndarray): (H, W) classes.
        num_classes (int): Number of classes.
        ignore_index (int): Label that does not count. Defaults to 255.

    Returns:
        np.ndarray: (num_classes, num_classes) pixels, rows by true class.
    """
    labelled = truth != ignore_index
    pairs = truth[labelled].astype(
        np.int64) * num_classes + prediction[labelled]
    return np.bincount(
        pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_ious(confusions: np.ndarray) -> np.ndarray:
    """IoU of each class of a confusion matrix; nan where it has no pixel."""
    right = np.diag(confusions)
    union = confusions.sum(0) + confusions.sum(1) - right
    with np.errstate(invalid='ignore'):
        return right / union


def largest_confusions(matrix: np.ndarray,
                       names: Sequence[str],
                       number: int = 20) -> list[dict]:
    """Largest entries off the diagonal.

    Returns:
        list[dict]: 'truth', 'prediction' and 'count'.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind='stable')[:number]
    return [
        dict(truth=names[i], prediction=names[j], count=int(wrong[i, j]))
        for i, j in zip(*np.unravel_index(order, wrong.shape))
        if wrong[i, j] > 0
    ]
