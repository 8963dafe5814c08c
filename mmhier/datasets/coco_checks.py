"""Checks of annotation files in COCO's format, before mmdet reads them."""
import json
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from mmhier.errors import MMHierError
from mmhier.files import missing_files
from mmhier.progress import track
from .segmentation_checks import (
    are_numbers,
    check_rle_sizes,
    check_segmentation,
    describe_misfits,
)

_IMAGE_KEYS = {'id', 'file_name', 'height', 'width'}
_ANNOTATION_KEYS = {'id', 'image_id', 'category_id', 'bbox', 'area'}
_ID_TYPES = {int, str, float}
# Reasons that are common in sound data.
_CROWD = 'have iscrowd=1'
_UNUSED = 'are of other categories than the classes'


@lru_cache(maxsize=1)
def read_coco(path: str) -> dict[str, Any]:
    """Content of an annotation file with the keys that mmdet relies on.

    The last file is kept: ``read_coco.cache_clear()`` forgets it.

    Args:
        path (str): Json in the format of COCO's instances.

    Raises:
        ValueError: If the file is no such json, an entry lacks a key, or ids
            or names of categories are not unique.
    """
    try:
        with open(path, encoding='utf-8') as file:
            coco = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise MMHierError(
            f'annotation file {path} is not readable json: {error}') from error
    for key in ('images', 'categories'):
        if not isinstance(coco, dict) or not isinstance(coco.get(key),
                                                        list) or not coco[key]:
            raise MMHierError(
                f'annotation file {path} has no {key}: expected COCO '
                'instances json with "images", "annotations" and "categories"')
    if not isinstance(coco.setdefault('annotations', []), list):
        raise MMHierError(f'annotation file {path}: annotations is '
                          f'{coco["annotations"]!r:.80}: expected a list')
    _check_keys(path, 'images', coco['images'], _IMAGE_KEYS)
    _check_keys(path, 'categories', coco['categories'], {'id', 'name'})
    _check_keys(path, 'annotations', coco['annotations'], _ANNOTATION_KEYS)
    for image in coco['images']:
        size = [image['width'], image['height']]
        if (not isinstance(image['file_name'], str) or not are_numbers(size)
                or min(size) <= 0 or any(s % 1 for s in size)):
            raise MMHierError(
                f'annotation file {path}: image {image["id"]} has file_name='
                f'{image["file_name"]!r}, width={size[0]!r} and height='
                f'{size[1]!r}: expected a name and two numbers of pixels')
    for kind in ('images', 'annotations', 'categories'):
        _check_ids(path, kind, 'id', coco[kind])
        _check_unique(path, f'ids of {kind}',
                      [entry['id'] for entry in coco[kind]])
    for key in ('image_id', 'category_id'):
        _check_ids(path, 'annotations', key, coco['annotations'])
    names = [category['name'] for category in coco['categories']]
    strange = [name for name in names if not isinstance(name, str)]
    if strange:
        raise MMHierError(f'annotation file {path}: a category has the name '
                          f'{strange[0]!r}: expected a string')
    _check_unique(path, 'names of categories', names)
    return coco


def _check_keys(path: str, kind: str, entries: Iterable[dict],
                expected: set) -> None:
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not expected <= entry.keys():
            missing = expected - set(entry) if isinstance(entry,
                                                          dict) else expected
            raise MMHierError(f'annotation file {path}: {kind}[{i}] lacks '
                              f'{", ".join(sorted(missing))}')


def _check_ids(path: str, kind: str, key: str, entries: Sequence[dict]) -> None:
    """Check that ids are numbers or strings."""
    if set(map(type, (entry[key] for entry in entries))) <= _ID_TYPES:
        return
    for i, entry in enumerate(entries):
        if type(entry[key]) not in _ID_TYPES:
            raise MMHierError(f'annotation file {path}: {kind}[{i}] has {key}='
                              f'{entry[key]!r}: expected a number or a string')


def check_categories(path: str, classes: Sequence[str],
                     owner: str) -> list[str]:
    """Compare the categories of a file with the classes of a dataset.

    mmdet matches them by name but numbers them in the order of the json, so
    both must agree. Annotations of other categories are left out by mmdet.

    Args:
        path (str): Annotation file.
        classes (Sequence[str]): Of the dataset.
        owner (str): The dataset, for messages.

    Returns:
        list[str]: Warnings.

    Raises:
        ValueError: If a class is no category, or they come in another order.
    """
    names = [category['name'] for category in read_coco(path)['categories']]
    hint = ('take the json\'s own with --classes auto, or set '
            'metainfo=dict(classes=(...)) in every dataset and num_classes in '
            'every head')
    absent = [c for c in classes if c not in names]
    if absent:
        raise MMHierError(
            f'{owner} has {len(classes)} classes, of which {path} lacks '
            f'{len(absent)}: {_shorten(absent)}. Its own are '
            f'{_shorten(names)}: {hint}')
    used = [n for n in names if n in classes]
    if used != list(classes):
        raise MMHierError(
            f'the classes of {owner} come in another order in {path}, so '
            f'labels would be mixed up: {_shorten(classes)} against '
            f'{_shorten(used)}: {hint}')
    if len(used) == len(names):
        return []
    return [
        f'{owner} leaves out {len(names) - len(used)} of the {len(names)} '
        f'categories in {path}'
    ]


def check_annotations(path: str,
                      with_masks: bool = False,
                      classes: Sequence[str] | None = None,
                      poly2mask: bool = True) -> list[str]:
    """Check categories, boxes and masks of an annotation file.

    mmdet leaves out crowds, annotations with ``ignore`` and boxes without
    area or outside of their image, clips those that reach out, and takes no
    mask from polygons of fewer than three points: these are counted.

    Args:
        path (str): Annotation file.
        with_masks (bool): Whether segmentations will be used. Defaults to
            False.
        classes (Sequence[str], optional): Of the dataset. Defaults to None:
            all categories.
        poly2mask (bool): ``poly2mask`` of LoadAnnotations, which leaves out
            RLE if it is False. Defaults to True.

    Returns:
        list[str]: Warnings, one for each kind of flaw, and one if more than
        half of the annotations are left out.

    Raises:
        ValueError: If an annotation names a category that does not exist, or
            holds a value that is no number; with masks, if it has no
            segmentation or one of another size than its image; if every
            annotation is left out.
    """
    coco = read_coco(path)
    names = {
        category['id']: category['name']
        for category in coco['categories']
    }
    used = {i for i, n in names.items() if classes is None or n in classes}
    sizes = {
        image['id']: (image['width'], image['height'])
        for image in coco['images']
    }
    left_out: dict[str, list] = defaultdict(list)
    flaws: dict[str, list] = defaultdict(list)
    sound = []
    for annotation in track(coco['annotations'], 'Checking annotations'):
        _check_values(path, annotation, names)
        size = sizes.get(annotation['image_id'])
        reason = _reason_left_out(annotation, size, used)
        if with_masks:
            reason = check_segmentation(path, annotation, size, poly2mask,
                                        flaws) or reason
        if reason:
            left_out[reason].append(annotation['id'])
        elif size and _reaches_out(annotation['bbox'], *size):
            flaws['have a box that reaches out of its image and is '
                  'clipped'].append(annotation['id'])
        else:
            sound.append(annotation)
    number = len(coco['annotations'])
    misfits = []
    if with_masks:
        check_rle_sizes(path, coco['annotations'], sizes)
        misfits = describe_misfits(path, sound)
    counts = '; '.join(f'{len(ids)} {reason}, such as annotation {ids[0]}'
                       for reason, ids in left_out.items())
    lost = sum(map(len, left_out.values()))
    if lost and lost == number:
        raise MMHierError(
            f'{path}: all {number} annotations are left out, so there is '
            f'nothing to learn or to score: {counts}' + _type_hint(coco, sizes))
    expected = {_CROWD, _UNUSED}
    flaws |= {k: v for k, v in left_out.items() if k not in expected}
    lines = [
        f'{path}: {len(ids)} of {number} annotations {kind}, such as '
        f'annotation {ids[0]}' for kind, ids in flaws.items()
    ] + misfits
    if 2 * lost > number:
        lines.insert(
            0, f'{path}: MORE THAN HALF of the annotations, {lost} of '
            f'{number}, are left out: {counts}')
    return lines


def count_unused_classes(path: str,
                         classes: Sequence[str],
                         filter_empty: bool = False) -> list[str]:
    """Name the classes that have no annotation in a training set.

    Args:
        path (str): Annotation file.
        classes (Sequence[str]): Of the dataset.
        filter_empty (bool): Whether images without annotations are left out.
            Defaults to False.

    Returns:
        list[str]: A warning, or none.

    Raises:
        MMHierError: If there are no annotations, and so no images.
    """
    coco = read_coco(path)
    found = {annotation['category_id'] for annotation in coco['annotations']}
    absent = [
        category['name'] for category in coco['categories']
        if category['name'] in classes and category['id'] not in found
    ]
    if not found and filter_empty:
        raise MMHierError(
            f'{path} has no annotations, and filter_cfg.filter_empty_gt leaves '
            'out images without any, so none is left to train on')
    if not found:
        return [f'{path} has no annotations, so nothing is learned from it']
    if not absent:
        return []
    return [
        f'{path}: {len(absent)} of {len(classes)} classes have no '
        f'annotation, so they are not learned: {_shorten(absent)}'
    ]


def _type_hint(coco: dict[str, Any], sizes: dict[Any, Any]) -> str:
    """Say so where ids of images are numbers here and strings there."""
    image, annotation = coco['images'][0], coco['annotations'][0]
    one, other = image['id'], annotation['image_id']
    if other in sizes or str(one).isdecimal() != str(other).isdecimal() or type(
            one) is type(other):
        return ''
    return (f'. Ids of images are of type {type(one).__name__} in images, '
            f'such as {one!r}, and {type(other).__name__} in annotations, '
            f'such as image_id={other!r}: write both alike')


def _check_values(path: str, annotation: dict, names: dict[Any, str]) -> None:
    """Check the category and the numbers of an annotation."""
    box, area = annotation['bbox'], annotation['area']
    if (annotation['category_id'] in names and isinstance(box, list)
            and len(box) == 4 and are_numbers([*box, area])
            and annotation.get('iscrowd') in (None, 0, 1)):
        return
    where = f'annotation file {path}: annotation {annotation["id"]}'
    if annotation['category_id'] not in names:
        raise MMHierError(
            f'{where} has category_id={annotation["category_id"]!r}, which '
            'is not among the categories: add the category, or remove the '
            'annotation')
    if not are_numbers(box) or len(box) != 4:
        raise MMHierError(f'{where} has bbox={box}: expected four finite '
                          'numbers, x, y, width and height in pixels')
    if not are_numbers([area]):
        raise MMHierError(f'{where} has area={area}: expected a finite number '
                          'of pixels')
    raise MMHierError(f'{where} has iscrowd={annotation["iscrowd"]!r}: '
                      'expected 0 or 1')


def _reason_left_out(annotation: dict, size: tuple[float, float] | None,
                     used: set) -> str:
    """Why mmdet leaves out an annotation, '' if it does not."""
    if size is None:
        return 'belong to no image, so they are left out'
    if annotation['category_id'] not in used:
        return _UNUSED
    reason = describe_left_out(annotation, *size)
    return reason or (_CROWD if annotation.get('iscrowd') else '')


def _reaches_out(box: Sequence[float], width: float, height: float) -> bool:
    x, y, w, h = box
    return x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1


def describe_left_out(annotation: dict, width: float, height: float) -> str:
    """Why mmdet leaves out an annotation in loading.

    Args:
        annotation (dict): With four finite numbers as its box.
        width (float): Width of the image.
        height (float): Height of the image.

    Returns:
        str: '' if it is loaded.
    """
    x, y, w, h = annotation['bbox']
    if annotation.get('ignore'):
        return 'have ignore=1, so they are left out'
    if w < 1 or h < 1 or annotation['area'] <= 0:
        if max(x, y, w, h) <= 1:
            return ('have a box of less than a pixel, so they are left out: '
                    'its numbers seem to be fractions of the image, as of '
                    'YOLO, where pixels are expected')
        return ('have a box of less than a pixel or no area, so they are left '
                'out')
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return 'have a box outside of their image, so they are left out'
    return ''


def check_images(path: str, folder: str) -> list[str]:
    """Check that every listed image is on disk, listing each folder once.

    Args:
        path (str): Annotation file.
        folder (str): Folder that file names are relative to.

    Returns:
        list[str]: A warning on images that are listed twice, or none.

    Raises:
        ValueError: If images are missing.
    """
    images = read_coco(path)['images']
    missing = missing_files(
        osp.join(folder, image['file_name']) for image in images)
    if missing:
        raise MMHierError(f'{len(missing)} of the {len(images)} images in '
                          f'{path} are not on disk, such as {missing[0]}')
    times = Counter(image['file_name'] for image in images)
    twice = [name for name, number in times.items() if number > 1]
    if not twice:
        return []
    return [
        f'{path}: {len(twice)} images are listed more than once, such as '
        f'{twice[0]}: objects of one entry are background in the other'
    ]


def count_small_images(path: str, min_size: float) -> list[str]:
    """Count the images that mmdet leaves out of training for their size.

    Args:
        path (str): Annotation file.
        min_size (float): ``filter_cfg.min_size`` of the dataset.

    Returns:
        list[str]: A warning, or none.
    """
    images = read_coco(path)['images']
    small = [
        image['file_name'] for image in images
        if min(image['width'], image['height']) < min_size
    ]
    if not small:
        return []
    if len(small) == len(images):
        raise MMHierError(
            f'{path}: all {len(images)} images are narrower than filter_cfg.'
            f'min_size={min_size} pixels, so none is left to train on')
    return [
        f'{path}: {len(small)} of {len(images)} images are narrower than '
        f'filter_cfg.min_size={min_size} pixels, so they are left out, such '
        f'as {small[0]}'
    ]


def describe_other_size(loaded: Sequence[int],
                        stated: Sequence[Any]) -> str | None:
    """Describe an image whose size differs from that in its annotations.

    Args:
        loaded (Sequence[int]): Height and width of the image.
        stated (Sequence[int]): Height and width in the annotation file.

    Returns:
        str, optional: Both sizes and the remedy; None if they agree.
    """
    if tuple(loaded[:2]) == tuple(stated):
        return None
    reason = (f'is {loaded[1]}x{loaded[0]} pixels, but its annotations are '
              f'for {stated[1]}x{stated[0]}, so boxes would be misplaced: ')
    if tuple(loaded[:2]) == tuple(stated)[::-1]:
        return reason + (
            'it is probably turned by its EXIF data. If the annotations are '
            'for images that are not turned, give LoadImageFromFile of every '
            "pipeline color_type='color_ignore_orientation', else take it out")
    return reason + 'replace the image, or correct its annotations'


def _check_unique(path: str, what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        value, times = Counter(values).most_common(1)[0]
        raise MMHierError(f'annotation file {path}: {what} are not unique, '
                          f'{value} occurs {times} times')


def _shorten(names: Sequence[str]) -> str:
    """At most five names, with quotes where spaces would not show."""
    names = [n if n == n.strip() else repr(n) for n in map(str, names)]
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(names[:5]) + more
