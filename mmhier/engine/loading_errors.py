"""Files of a sample that cannot be loaded or must not be learned from."""
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from mmhier.datasets.coco_checks import describe_other_size

_MASK = 'seg_map_path'
_FILE_KEYS = ('img_path', _MASK)
_ADVICE = 'replace the file, or take it out of the data set'

# Ratio of sides from which a resized image may have none left.
_NARROW = 100

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'


def find_flaw(dataset: Any, index: int, sample: Any) -> str | None:
    """Find what makes a sample unfit that its pipeline could load.

    That is a JPEG file that is cut off, which OpenCV before 4.12 fills with
    gray, or an image of another size than its annotations say.

    Args:
        dataset (Dataset): Of mmengine's kind; samples of others pass.
        index (int): Index of the sample.
        sample (Any): What the dataset returned.

    Returns:
        str, optional: File and reason; None for a sound sample.
    """
    packed = sample.get('data_samples') if isinstance(sample, dict) else None
    if isinstance(packed, (list, tuple)) and packed:  # of several views
        packed = packed[0]
    path = getattr(packed, 'img_path', None)
    if not isinstance(path, str) or not os.path.isfile(path):
        return None
    if _may_be_cut_off(path) and _is_cut_off(Path(path).read_bytes()):
        return f'{path} is cut off: {_ADVICE}'
    info = _data_info(dataset, index)
    # Datasets may return another sample for one that is left out.
    stated = info.get('height'), info.get('width')
    loaded = getattr(packed, 'ori_shape', None)
    if loaded is None or None in stated or info.get('img_path') != path:
        return None
    reason = describe_other_size(loaded, stated)
    return None if reason is None else f'{path} {reason}'


def explain_failure(dataset: Any, index: int) -> str | None:
    """Find the file because of which a sample could not be loaded.

    Args:
        dataset (Dataset): Of mmengine's kind; others have no files.
        index (int): Index of the sample.

    Returns:
        str, optional: File and reason; None if its files are sound.
    """
    info = _data_info(dataset, index)
    for key in _FILE_KEYS:
        reason = _what_is_wrong(info.get(key), key == _MASK)
        if reason is not None:
            return f'{info[key]} {reason}: {_ADVICE}'
    return None


def _data_info(dataset: Any, index: int) -> dict[str, Any]:
    """Paths and annotations of a sample; empty where there are none."""
    if not hasattr(dataset, 'get_data_info'):
        return {}
    info = dataset.get_data_info(index)
    return info if isinstance(info, dict) else {}


def _may_be_cut_off(path: str) -> bool:
    """Whether a JPEG file does not end with the end mark."""
    with open(path, 'rb') as file:
        if file.read(2) != _JPEG_START:
            return False
        file.seek(-2, os.SEEK_END)
        return file.read(2) != _JPEG_END


def _is_cut_off(content: bytes) -> bool:
    """Whether a JPEG file lacks its end.

    Some cameras write more behind the end mark, so Pillow, which refuses what
    is cut off, decides where it is not at the end.
    """
    if (content[:2] != _JPEG_START or content[-2:] == _JPEG_END):
        return False
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError):
        return True
    return False


def _what_is_wrong(path: Any, is_mask: bool) -> str | None:
    """Reason why an image file is unfit; None for a sound or remote one."""
    if not isinstance(path, str) or '://' in path:
        return None
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        return f'cannot be read ({error.strerror})'
    if not content.size:
        return 'is empty'
    if _is_cut_off(content.tobytes()):
        return 'is cut off'
    try:
        decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None:
        return 'is not an image that can be decoded'
    height, width = decoded.shape[:2]
    if max(height, width) > _NARROW * min(height, width):
        return f'is {width} x {height} pixels, too narrow to be resized'
    if is_mask and min(height, width) == 1:
        # mmseg squeezes them, and lacks a side then.
        return f'is {width} x {height} pixels, too narrow for a mask of labels'
    return None
