"""Packages for the COCO evaluation server.

The server takes ``detections_TESTSET_ALG_results.zip`` with one file in it,
``detections_TESTSET_ALG_results.json``: a list of detections. Boxes and masks
are separate submissions (https://cocodataset.org/#upload and #format-results).
"""
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from mmhier.errors import MMHierError
from mmhier.leaderboard.packages import (
    PackageSummary,
    Problems,
    list_entries,
    new_package,
    open_package,
    read_entry,
)
from mmhier.leaderboard.run_lengths import decode_run_lengths
from mmhier.progress import track

# 1 to 90 without the ten categories that were never annotated.
COCO_CATEGORY_IDS = frozenset(range(
    1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
MAX_DETECTIONS = 100

_RESULT_KEYS = dict(bbox='bbox', segm='segmentation')

_JSON_NAME = re.compile(r'detections_[\w.-]+_[\w.+-]+_results\.json')
# Pixels by which a box may exceed its image, for rounding.
_TOLERANCE = 1.
# Numbers of boxes and images from which [x1, y1, x2, y2] can be told from
# objects that happen to be in the upper left.
_MIN_BOXES, _MIN_IMAGES = 10, 3


@dataclass(frozen=True)
class ImageList:
    """Images to be submitted, from a COCO json.

    Attributes:
        path (str): The json.
        sizes (dict[int, tuple[int, int]]): Height and width by image id.
        category_ids (frozenset[int]): Official ids of the categories.
    """
    path: str
    sizes: dict[int, tuple[int, int]]
    category_ids: frozenset[int] = COCO_CATEGORY_IDS


def read_image_list(path: str | Path) -> ImageList:
    """Read ``image_info_*.json`` or ``instances_*.json``.

    Args:
        path (str | Path): A COCO json; annotations are not needed.

    Returns:
        ImageList: Its images and categories; the 80 official categories if it
        names none.

    Raises:
        MMHierError: If it cannot be read, or lists no images with sizes.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        sizes = {
            image['id']: (image['height'], image['width'])
            for image in content['images']
        }
        category_ids = frozenset(category['id']
                                 for category in content.get('categories', ()))
    except OSError as error:
        raise MMHierError(f'cannot read image list {path}: '
                          f'{error.strerror}') from error
    except (ValueError, RecursionError) as error:
        raise MMHierError(
            f'image list {path} is not readable json: {error}') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise MMHierError(
            f'image list {path} is no COCO json: expected "images" with "id", '
            '"height" and "width", as in image_info_test-dev2017.json'
        ) from error
    if not sizes:
        raise MMHierError(f'image list {path} lists no images')
    return ImageList(str(path), sizes, category_ids or COCO_CATEGORY_IDS)


def coco_package_name(testset: str, algorithm: str) -> str:
    """The server's name of a package, ``detections_..._results.zip``.

    Args:
        testset (str): Such as 'test-dev2017' or 'val2017'.
        algorithm (str): Letters, digits and hyphens; underscores become
            hyphens.

    Raises:
        MMHierError: If the server could not take the name apart.
    """
    algorithm = algorithm.replace('_', '-')
    name = f'detections_{testset}_{algorithm}_results.json'
    if not algorithm or not _JSON_NAME.fullmatch(name):
        raise MMHierError(f'{algorithm!r} cannot be a name for the server: '
                          'use letters, digits and hyphens')
    return name.replace('.json', '.zip')


def write_coco_package(detections: Sequence[dict],
                       path: str | Path,
                       images: ImageList,
                       task: str,
                       overwrite: bool = False) -> PackageSummary:
    """Write a package of detections, and put it in place if it is valid.

    Boxes are rounded to a hundredth of a pixel. Boxes without area and
    detections beyond the 100 best of an image are left out; neither can
    change a score. Packages of masks hold no boxes, because the server would
    take object sizes from them.

    Args:
        detections (Sequence[dict]): ``image_id``, official ``category_id``,
            ``score``, ``bbox`` as [x, y, width, height] in pixels, and for
            'segm' ``segmentation`` as compressed RLE; as
            :meth:`mmdet.evaluation.CocoMetric.results2json` writes them.
        path (str | Path): The package, named as by
            :func:`coco_package_name`.
        images (ImageList): The images that the model was run on; those
            without a detection may stay without.
        task (str): 'bbox' or 'segm'.
        overwrite (bool): Replace a package. Defaults to False.

    Returns:
        PackageSummary: Of the package.

    Raises:
        MMHierError: If the package is there, cannot be written, or is not
            valid; then nothing is written.
    """
    path = Path(path)
    kept, notes = _tidy(detections, task)
    with new_package(path, overwrite) as staged:
        _zip_detections(kept, staged, path.with_suffix('.json').name)
        summary = check_coco_package(staged, images, len(images.sizes), path)
    num_empty = len(images.sizes) - summary.num_images
    allowed = f' --allow-empty-images {num_empty}' if num_empty else ''
    summary.notes[:0] = notes
    summary.notes.append(f'to check it again: tools/submit.py coco --check '
                         f'{path} --image-list {images.path}{allowed}')
    return summary


def _tidy(detections: Sequence[dict],
          task: str) -> tuple[list[dict], list[str]]:
    """Detections in the server's format, and notes on those left out."""
    key = _RESULT_KEYS[task]
    by_image = defaultdict(list)
    num_flat = num_surplus = 0
    for detection in detections:
        tidy = {
            name: detection[name]
            for name in ('image_id', 'category_id', 'score', key)
        }
        if task == 'bbox':
            tidy['bbox'] = [round(value, 2) for value in detection['bbox']]
            if 0 in tidy['bbox'][2:]:
                num_flat += 1
                continue
        by_image[tidy['image_id']].append(tidy)
    kept = []
    for found in by_image.values():
        # Stable: the model's order decides among equal scores.
        found.sort(key=lambda detection: -detection['score'])
        num_surplus += len(found[MAX_DETECTIONS:])
        kept += found[:MAX_DETECTIONS]
    notes = []
    if num_flat:
        notes.append(f'left out {num_flat} boxes without an area')
    if num_surplus:
        notes.append(f'left out {num_surplus} detections beyond the '
                     f'{MAX_DETECTIONS} best of an image')
    return kept, notes


def _zip_detections(detections: Sequence[dict], path: Path,
                    json_name: str) -> None:
    info = zipfile.ZipInfo(json_name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, 'w') as archive:
        with archive.open(info, 'w', force_zip64=True) as file:
            before = '['
            for detection in detections:
                text = json.dumps(detection, separators=(',', ':'))
                file.write(f'{before}{text}'.encode())
                before = ',\n'
            file.write(b']' if detections else b'[]')


def check_coco_package(path: str | Path,
                       images: ImageList | None = None,
                       allow_empty_images: int = 0,
                       name: str | Path | None = None,
                       max_bytes: int | None = None) -> PackageSummary:
    """Validate a package for the COCO server.

    Args:
        path (str | Path): The zip file; nothing is extracted from it.
        images (ImageList, optional): Images to be submitted. Without it,
            missing images and the sizes of boxes and masks are not checked.
            Defaults to None.
        allow_empty_images (int): How many of the images may have no
            detection. Defaults to 0.
        name (str | Path, optional): Name of the package in messages.
            Defaults to None, ``path``.
        max_bytes (int, optional): Maximum size of the json. Defaults to
            None, 4 GiB.

    Returns:
        PackageSummary: Of a valid package.

    Raises:
        MMHierError: Lists all problems.
    """
    path = Path(path)
    problems = Problems(name or path)
    with open_package(path) as archive:
        entries = list_entries(archive, '.json', problems, max_bytes)
        if len(entries) != 1:
            problems.add(
                'wrong zip layout: expected one .json file, found '
                f'{len(entries)} that can be read',
                ', '.join(info.filename for info in entries[:3]))
            problems.raise_if_any()
        _check_names(path, Path(entries[0].filename).name, problems)
        content = read_entry(archive, entries[0], problems)
    detections = _parse(content, problems) if content is not None else None
    if detections is None:
        problems.raise_if_any()
    # A file that could not be read is a problem.
    assert detections is not None
    task = 'bbox'
    if any('segmentation' in d for d in detections if isinstance(d, dict)):
        task = 'segm'
    checked = _Detections(task, images, problems)
    for i, detection in enumerate(track(detections, 'Checking the package')):
        checked.add(i, detection)
    checked.finish(allow_empty_images)
    problems.raise_if_any()
    return PackageSummary(
        str(name or path), task, len(checked.by_image), len(detections),
        checked.notes())


def _check_names(path: Path, json_name: str, problems: Problems) -> None:
    if not _JSON_NAME.fullmatch(json_name):
        problems.add(
            'a file name that the server does not know (expected '
            'detections_TESTSET_ALG_results.json, such as '
            'detections_test-dev2017_hatnet-tiny_results.json)', json_name)
    elif Path(json_name).stem != path.stem:
        problems.add('the zip file and the json in it have different names',
                     f'{path.name}, {json_name}')


def _parse(content: bytes, problems: Problems) -> list | None:
    """Detections in a json file, or None with a problem."""

    def note_constant(name: str) -> float:
        problems.add('numbers that json does not have', name)
        return float(name)

    try:
        detections = json.loads(content, parse_constant=note_constant)
    except (ValueError, RecursionError) as error:
        problems.add('the file is not readable json', str(error)[:100])
        return None
    if not isinstance(detections, list):
        problems.add('the json is no list of detections',
                     f'it is a {type(detections).__name__}')
        return None
    if not detections:
        problems.add('the list of detections is empty, which the server '
                     'cannot read')
        return None
    return detections


class _Detections:
    """Checks of single detections, then of all together."""

    def __init__(self, task: str, images: ImageList | None, problems: Problems):
        self.key = _RESULT_KEYS[task]
        self.images = images
        self.problems = problems
        self.category_ids = (
            images.category_ids if images else COCO_CATEGORY_IDS)
        self.by_image: dict[int, int] = defaultdict(int)
        self.seen: set = set()
        self.num_twice = 0
        self.num_boxes_beside_masks = 0
        self.num_leaving = 0
        self.corner_boxes: list[bool] = []
        self.corner_images: set = set()

    def add(self, index: int, detection: Any) -> None:
        """Check one detection by itself."""
        if not isinstance(detection, dict):
            self.problems.add('detections that are no json objects',
                              f'number {index} is {_short(detection)}')
            return
        at = f'number {index}'
        image_id = detection.get('image_id')
        if _is_integer(image_id):
            at = f'number {index} in image {image_id}'
            self.by_image[image_id] += 1
            if self.images and image_id not in self.images.sizes:
                self.problems.add('image ids that are not in the image list',
                                  at)
        else:
            self.problems.add('image ids that are no integers',
                              f'{at}: {_short(image_id)}')
            image_id = None
        self._check_category(detection.get('category_id'), at)
        self._check_score(detection.get('score'), at)
        size = None
        if self.images and image_id is not None:
            size = self.images.sizes.get(image_id)
        if self.key == 'bbox':
            self._check_box(detection.get('bbox'), size, image_id, at)
        else:
            self._check_mask(detection.get('segmentation'), size, at)
            self.num_boxes_beside_masks += 'bbox' in detection
        key = hash((image_id, str(detection.get('category_id')),
                    str(detection.get(self.key))))
        self.num_twice += key in self.seen
        self.seen.add(key)

    def _check_category(self, category_id: Any, at: str) -> None:
        if not _is_integer(category_id):
            self.problems.add('category ids that are no integers',
                              f'{at}: {_short(category_id)}')
        elif category_id not in self.category_ids:
            ids = sorted(self.category_ids)
            self.problems.add(
                'category ids that are not official (the '
                f'{len(ids)} ids lie between {ids[0]} and {ids[-1]}; they '
                'are not the model\'s class numbers)', f'{at}: {category_id}')

    def _check_score(self, score: Any, at: str) -> None:
        if not _is_number(score):
            self.problems.add('scores that are no finite numbers',
                              f'{at}: {_short(score)}')
        elif not 0 <= score <= 1:
            self.problems.add('scores outside of [0, 1]', f'{at}: {score}')

    def _check_box(self, box: Any, size: tuple[int, int] | None,
                   image_id: int | None, at: str) -> None:
        if not (isinstance(box, list) and len(box) == 4
                and all(_is_number(value) for value in box)):
            self.problems.add('boxes that are no four finite numbers',
                              f'{at}: {_short(box)}')
            return
        x, y, width, height = box
        if width <= 0 or height <= 0:
            self.problems.add('boxes without a width or a height',
                              f'{at}: {box}')
        as_corners = width > x and height > y
        if size:
            image_height, image_width = size
            right, lower = (image_width + _TOLERANCE, image_height + _TOLERANCE)
            as_corners &= width <= right and height <= lower
            if (min(x, y) < -_TOLERANCE or x + width > right
                    or y + height > lower):
                self.num_leaving += 1
                self.problems.add(
                    'boxes that leave their image',
                    f'{at}: {box} in {image_width} x {image_height} pixels')
        if min(x, y) >= 1:
            # At the image border both formats agree.
            self.corner_boxes.append(as_corners)
            self.corner_images.add(image_id)

    def _check_mask(self, mask: Any, size: tuple[int, int] | None,
                    at: str) -> None:
        if not isinstance(mask, dict) or not {'size', 'counts'} <= set(mask):
            self.problems.add('masks that are no RLE with "size" and "counts"',
                              f'{at}: {_short(mask)}')
            return
        if not (isinstance(mask['size'], list) and len(mask['size']) == 2
                and all(_is_integer(v) and v > 0 for v in mask['size'])):
            self.problems.add('mask sizes that are no [height, width]',
                              f'{at}: {_short(mask["size"])}')
            return
        if not isinstance(mask['counts'], str):
            self.problems.add(
                'masks whose "counts" are no compressed RLE (encode them '
                'with pycocotools.mask.encode)', at)
            return
        if size and tuple(mask['size']) != size:
            swapped = tuple(mask['size']) == size[::-1]
            hint = ', height and width are swapped' if swapped else ''
            self.problems.add(
                'masks of another size than their image',
                f'{at}: {mask["size"]}, the image has {list(size)}{hint}')
        lengths = decode_run_lengths(mask['counts'])
        if lengths is None:
            self.problems.add('masks whose RLE cannot be decoded',
                              f'{at}: {_short(mask["counts"])}')
        elif lengths.sum() != mask['size'][0] * mask['size'][1]:
            self.problems.add(
                'masks whose RLE does not fill their size',
                f'{at}: {lengths.sum()} pixels for {mask["size"]}')

    def finish(self, allow_empty_images: int) -> None:
        """Run the checks of all detections together."""
        for image_id, count in self.by_image.items():
            if count > MAX_DETECTIONS:
                self.problems.add(
                    f'images with more than {MAX_DETECTIONS} detections',
                    f'{count} in image {image_id}')
        self._check_corners()
        if not self.images:
            return
        missing = [i for i in self.images.sizes if i not in self.by_image]
        if len(missing) > allow_empty_images:
            shown = ', '.join(str(i) for i in missing[:3])
            self.problems.add(
                f'missing images: {len(missing)} of the '
                f'{len(self.images.sizes)} in {self.images.path} have no '
                f'detection, {allow_empty_images} may (if the model found '
                'nothing there, say so with --allow-empty-images '
                f'{len(missing)})', shown)

    def _check_corners(self) -> None:
        """Report boxes that look like [x1, y1, x2, y2].

        Their third number exceeds the first and their fourth the second,
        which for [x, y, width, height] is true of some boxes only.
        """
        if self.num_leaving and self.corner_boxes:
            enough = bool(np.mean(self.corner_boxes) > 0.99)
        else:
            enough = (
                len(self.corner_boxes) >= _MIN_BOXES
                and len(self.corner_images) >= _MIN_IMAGES
                and all(self.corner_boxes))
        if enough:
            self.problems.add(
                'boxes look like [x1, y1, x2, y2], the server reads [x, y, '
                'width, height]', f'{sum(self.corner_boxes)} of '
                f'{len(self.corner_boxes)} have their third number above '
                'their first and their fourth above their second')

    def notes(self) -> list[str]:
        """Notes on a package without problems."""
        notes = []
        if self.images:
            num_empty = sum(i not in self.by_image for i in self.images.sizes)
            if num_empty:
                notes.append(f'{num_empty} of {len(self.images.sizes)} images '
                             'have no detection')
        else:
            notes.append(
                'not checked without an image list: whether images are '
                'unknown or missing, and whether boxes and masks fit them')
        if self.num_twice:
            notes.append(f'{self.num_twice} detections are there twice, score '
                         'apart')
        if self.num_boxes_beside_masks:
            notes.append(
                f'{self.num_boxes_beside_masks} masks come with a "bbox", '
                'from which the server takes the sizes of the objects: leave '
                'it out')
        return notes


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Check for a finite number within the range of image sizes."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and -1e9 < value < 1e9)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
