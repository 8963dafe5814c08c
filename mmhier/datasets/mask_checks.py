"""Checks of images with masks of labels, before mmseg reads them."""
import os.path as osp
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from mmhier.errors import MMHierError
from mmhier.progress import track

IGNORED = 255
_EXIF_ORIENTATION = 0x0112
# Errors of Pillow for files of other kinds, damaged and huge ones.
_UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)


def spread_evenly(items: Sequence[Any], number: int) -> list[Any]:
    """At most this many items, at even distances, the first one included."""
    number = min(number, len(items))
    return [items[i * len(items) // number] for i in range(number)]


def check_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Check that each image has its mask on disk.

    Args:
        pairs (Sequence[tuple[str, str]]): Paths of image and mask.

    Raises:
        ValueError: With the number of images without mask, and one of each.
    """
    missing = [pair for pair in pairs if not osp.isfile(pair[1])]
    if missing:
        image, mask = missing[0]
        raise MMHierError(
            f'{len(missing)} of the {len(pairs)} images have no mask, such as '
            f'{image}: expected {mask}. Check seg_map_suffix and '
            'data_prefix.seg_map_path')


def check_masks(pairs: Iterable[tuple[str, str]],
                num_labels: int,
                reduce_zero_label: bool = False,
                ignore_index: int = IGNORED,
                allow_no_zero: bool = False) -> list[str]:
    """Read masks and compare them with their images and the classes.

    mmseg takes the values of a mask as labels 0, 1, ..., and 255 as ignored.
    With ``reduce_zero_label``, 0 is ignored as well, and 1 is label 0. Masks
    without any 0 suggest that their labels start elsewhere, so all of them
    being so is an error, though they may mean that no pixel is unlabelled:
    then say ``allow_no_zero``.

    Args:
        pairs (Iterable[tuple[str, str]]): Paths of image and mask.
        num_labels (int): Number of classes in the masks.
        reduce_zero_label (bool): Defaults to False.
        ignore_index (int): Label that the losses ignore. Defaults to 255.
        allow_no_zero (bool): Let masks without 0 pass. Defaults to False.

    Returns:
        list[str]: Warnings.

    Raises:
        ValueError: If a mask cannot be read, has another size than its image,
            has several channels or holds a label of no class; or if no mask
            holds the 0 of ``reduce_zero_label``.
    """
    first = int(reduce_zero_label)
    labelled = range(first, num_labels + first)
    ignored = {IGNORED}
    if ignore_index != IGNORED:
        ignored.add(ignore_index + first)
    if reduce_zero_label:
        ignored.add(0)
    number, empty, lossy, has_zero = 0, [], [], False
    seen: set[int] = set()
    for number, (image, mask) in enumerate(track(pairs, 'Checking masks'), 1):
        values, is_lossy = _read_mask(mask)
        if is_lossy:
            lossy.append(mask)
        size = _image_size(image)
        if values.shape != size:
            raise MMHierError(
                f'mask {mask} has {_size(values.shape)} pixels, but its image '
                f'{image} has {_size(size)}: they have to agree')
        present = occurring_values(values)
        strange = [v for v in present if v not in labelled and v not in ignored]
        if strange:
            raise MMHierError(
                f'mask {mask} holds {strange[0]}, which is none of the '
                f'{num_labels} classes: expected {labelled[0]} to '
                f'{labelled[-1]}' + ' (reduce_zero_label)' * first + ', or ' +
                ' or '.join(map(str, sorted(ignored))) + ' where no class '
                'is known' + _reduce_hint(present, num_labels, first))
        has_zero |= 0 in present
        seen.update(present)
        if ignored.issuperset(present):
            empty.append(mask)
    if reduce_zero_label and number and not has_zero and not allow_no_zero:
        raise MMHierError(
            f'reduce_zero_label=True ignores 0 and makes 1 the first class, '
            f'but none of {number} masks holds a 0, such as {mask}. If their '
            'first class is 0, set reduce_zero_label=False in the dataset and '
            'in LoadAnnotations; if it is 1, and every pixel has a class, say '
            'so with --cfg-options allow_no_zero_label=True')
    warnings = []
    if empty:
        warnings.append(f'{len(empty)} of {number} masks hold ignored pixels '
                        f'alone, such as {empty[0]}')
    if lossy:
        warnings.append(f'{len(lossy)} of {number} masks are JPEG, such as '
                        f'{lossy[0]}: its compression changes labels at the '
                        'edges of objects, write PNG')
    absent = [value - first for value in labelled if value not in seen]
    if absent and number:
        warnings.append(
            f'{len(absent)} of {num_labels} classes occur in none of {number} '
            f'masks looked at: labels {", ".join(map(str, absent[:5]))}' +
            ', ...' * (len(absent) > 5) + _binary_hint(seen))
    return warnings


def occurring_values(mask: np.ndarray) -> list[int]:
    """Different values of a mask, in increasing order."""
    if mask.dtype == np.uint8:  # Many times faster than np.unique.
        return np.flatnonzero(np.bincount(mask.ravel())).tolist()
    return np.unique(mask).tolist()


def _binary_hint(seen: set[int]) -> str:
    """Advice for masks of black and white."""
    if seen != {0, IGNORED}:
        return ''
    return (f'. Masks hold 0 and {IGNORED} alone, and {IGNORED} is ignored: if '
            'it marks the object, write 1 in its place')


def _reduce_hint(present: list[int], num_labels: int, first: int) -> str:
    """Advice for masks whose labels seem to start at 1."""
    if not first and present[0] > 0 and num_labels in present:
        return ('. If the first class is 1, and 0 stands for none, set '
                'reduce_zero_label=True in the dataset')
    return ''


def _read_mask(path: str) -> tuple[np.ndarray, bool]:
    """Values (H, W) of a mask, indices of the palette if it has one, and
    whether it was compressed as JPEG."""
    try:
        with Image.open(path) as mask:
            values = np.array(mask)
            mode, is_lossy = mask.mode, mask.format == 'JPEG'
    except _UNREADABLE as error:
        raise MMHierError(f'mask {path} cannot be read: {error}') from error
    if values.ndim != 2:
        raise MMHierError(
            f'mask {path} has {values.shape[2]} channels ({mode}): expected '
            'one, with the label of each pixel as its value; write labels in '
            'the place of colours')
    if values.dtype == bool:
        return values.astype(np.uint8), is_lossy
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        raise MMHierError(f'mask {path} holds values of mode {mode}: expected '
                          'labels of 8 bits')
    return values, is_lossy


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an open image, turned upright as mmcv does."""
    width, height = image.size
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def _image_size(path: str) -> tuple[int, int]:
    """Height and width of the image of a file."""
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except _UNREADABLE as error:
        raise MMHierError(f'image {path} cannot be read: {error}') from error


def _size(shape: tuple[int, ...]) -> str:
    """Width x height."""
    return f'{shape[1]}x{shape[0]}'


def unused_masks(pairs: Iterable[tuple[str, str]],
                 masks: Iterable[str]) -> str | None:
    """Warning on masks that no image has, None if there are none.

    Args:
        pairs (Iterable[tuple[str, str]]): Paths of image and mask.
        masks (Iterable[str]): All masks that there are.
    """
    unused = sorted(set(masks) - {mask for _, mask in pairs})
    if unused:
        return f'{len(unused)} masks have no image, such as {unused[0]}'
    return None
