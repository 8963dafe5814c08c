"""Checks of the masks of objects in COCO's format: polygons and RLE."""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmhier.datasets.mask_checks import spread_evenly
from mmhier.errors import MMHierError

_MAX_FITTED = 1000
_CHUNK = 4096
_LOWEST_IOU = 0.5  # of a box and the extent of its polygons


def check_segmentation(path: str, annotation: dict,
                       size: tuple[float, float] | None, poly2mask: bool,
                       flaws: dict[str, list]) -> str:
    """Check a segmentation; return why it is left out, '' if it is not."""
    mask = annotation.get('segmentation')
    where = f'annotation file {path}: annotation'
    if not mask:
        raise MMHierError(
            f'{where} {annotation["id"]} has no segmentation, which masks are '
            'trained with and evaluated against: add polygons or RLE, or take '
            "a config without masks, such as RetinaNet's")
    if isinstance(mask, dict):
        _check_rle(f'{where} {annotation["id"]}', mask, size)
        return '' if poly2mask or annotation.get('iscrowd') else (
            'have RLE, which poly2mask=False leaves out')
    if not isinstance(mask, list) or not all(map(are_numbers, mask)):
        raise MMHierError(
            f'{where} {annotation["id"]} has a segmentation that is no list of '
            'polygons [x1, y1, x2, y2, ...] of finite numbers')
    good = [len(p) >= 6 and len(p) % 2 == 0 for p in mask]
    if not any(good):
        return 'have only polygons of fewer than 3 points, so they are ignored'
    if not all(good):
        flaws['have a polygon of fewer than 3 points, which is left '
              'out'].append(annotation['id'])
    return ''


def _check_rle(where: str, mask: dict,
               size: tuple[float, float] | None) -> None:
    """Check that an RLE is one of an image of this width and height."""
    counts, stated = mask.get('counts'), mask.get('size')
    if not isinstance(counts, (str, list)) or not counts:
        raise MMHierError(f'{where} has RLE with counts={counts!r}: expected '
                          'a string, or a list of lengths')
    if size is None:
        return
    if stated != [size[1], size[0]]:
        raise MMHierError(
            f'{where} has RLE of size={stated} (height, width), but its image '
            f'is {size[0]}x{size[1]} pixels (width x height): the mask would '
            f'be garbled, expected size={[size[1], size[0]]}')
    if isinstance(counts, list) and (not are_numbers(counts) or min(counts) < 0
                                     or sum(counts) != size[0] * size[1]):
        raise MMHierError(f'{where} has RLE whose counts do not add up to the '
                          f'{size[0] * size[1]} pixels of its image')


def check_rle_sizes(path: str, annotations: Sequence[dict],
                    sizes: dict[Any, tuple[float, float]]) -> None:
    """Check that compressed RLE covers the pixels of its image.

    pycocotools writes the runs of damaged RLE beyond the mask.

    Args:
        path (str): Annotation file, for the message.
        annotations (Sequence[dict]): With any segmentation.
        sizes (dict): Width and height by id of the image.

    Raises:
        MMHierError: If an RLE has more or fewer pixels.
    """
    compressed = [
        a for a in annotations
        if isinstance(a['segmentation'], dict) and isinstance(
            a['segmentation']['counts'], str) and a['image_id'] in sizes
    ]
    for start in range(0, len(compressed), _CHUNK):
        chunk = compressed[start:start + _CHUNK]
        found = _count_pixels([a['segmentation']['counts'] for a in chunk])
        expected = np.array([math.prod(sizes[a['image_id']]) for a in chunk])
        for i in np.flatnonzero(found != expected)[:1]:
            raise MMHierError(
                f'annotation file {path}: annotation {chunk[i]["id"]} has '
                'compressed RLE that is damaged: its runs do not add up to '
                f'the {expected[i]:.0f} pixels of its image')


def _count_pixels(counts: Sequence[str]) -> np.ndarray:
    """Pixels of compressed RLE, -1 for what is none.

    As in rleFrString of pycocotools, a character holds 5 bits of a number and
    whether more follow; from the fourth on, a number is the difference from
    the last but one.
    """
    codes = np.frombuffer(''.join(counts).encode('latin-1', 'replace'),
                          np.uint8).astype(np.int64) - 48
    ends = np.cumsum([len(text) for text in counts])
    first = np.concatenate(([0], ends[:-1]))
    is_last = codes & 32 == 0
    broken = ~is_last[ends - 1]
    broken |= np.add.reduceat((codes < 0) | (codes > 63), first) > 0
    is_last[ends - 1] = True
    last = np.flatnonzero(is_last)
    start = np.concatenate(([0], last[:-1] + 1))
    place = 5 * np.minimum(
        np.arange(len(codes)) - np.repeat(start, last - start + 1), 10)
    values = np.add.reduceat((codes & 31) << place, start)
    values -= np.where(codes[last] & 16, 1 << (place[last] + 5), 0)
    owner = np.searchsorted(ends, start, side='right')
    number = np.bincount(owner)
    index = np.arange(len(values)) - np.searchsorted(start, first)[owner]
    # How many runs each difference is part of.
    weight = (number[owner] - 1 - index) // 2 + 1
    weight[index == 0] = 1
    pixels = np.bincount(owner, weights=values * weight)
    return np.where(broken, -1, pixels)


def describe_misfits(path: str, annotations: Sequence[dict]) -> list[str]:
    """Count boxes that are not around their polygons, in a sample.

    Args:
        path (str): Annotation file, for the message.
        annotations (Sequence[dict]): None of them left out.

    Returns:
        list[str]: A warning, or none.
    """
    outlined = [
        a for a in annotations
        if isinstance(a['segmentation'], list) and not a.get('iscrowd')
    ]
    sample = spread_evenly(outlined, _MAX_FITTED)
    misfits = [a for a in sample if _fit(a) < _LOWEST_IOU]
    if not misfits:
        return []
    return [
        f'{path}: {len(misfits)} of {len(sample)} annotations looked at have a '
        'box that is not around their polygons, such as annotation '
        f'{misfits[0]["id"]} with bbox={misfits[0]["bbox"]}: expected x, y, '
        'width and height in pixels'
    ]


def _fit(annotation: dict) -> float:
    """Intersection over union of a box and the extent of its polygons."""
    points = [v for p in annotation['segmentation'] if len(p) >= 6 for v in p]
    x, y, w, h = annotation['bbox']
    left, right = min(points[::2]), max(points[::2])
    top, bottom = min(points[1::2]), max(points[1::2])
    width = min(right, x + w) - max(left, x)
    height = min(bottom, y + h) - max(top, y)
    shared = max(0, width) * max(0, height)
    union = w * h + (right - left) * (bottom - top) - shared
    return shared / union if union > 0 else 1.


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except TypeError:
        return False
