"""What goes wrong while data is loaded, in one line that names the file."""
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from traceback import walk_tb
from typing import Any
from unittest.mock import patch

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from PIL import Image
from mmhier.datasets.coco_checks import describe_other_size
from mmhier.errors import MMHierError

_MASK = 'seg_map_path'
_FILE_KEYS = ('img_path', _MASK)

# Ratio of sides from which a resized image may have none left.
_NARROW = 100

_JPEG_START, _JPEG_END = b'\xff\xd8', b'\xff\xd9'


@contextmanager
def named_loading_errors() -> Iterator[None]:
    """Name the file of a sample that cannot be loaded, and a lost worker.

    Within it, a pipeline that fails on an image or mask that cannot be
    decoded raises MMHierError with its path, in the main process and in the
    forked workers of a dataloader. So it does where an image would be learned
    from, though it is not what it should be: a JPEG file that is cut off,
    which OpenCV before 4.12 fills with gray, and an image of another size
    than its annotations say. An error of a pipeline whose files can be
    decoded passes through as it is.

    Raises:
        MMHierError: If a file cannot be used, or a worker of a dataloader was
            killed.
    """
    call = Compose.__call__
    decode = mmcv.imfrombytes
    load = LoadImageFromFile.transform

    def call_and_name(self: Compose, data: dict[str, Any]) -> Any:
        paths = {key: data.get(key) for key in _FILE_KEYS}
        try:
            return call(self, data)
        except (AssertionError, AttributeError, IndexError, OSError, TypeError,
                ValueError, cv2.error) as error:
            if isinstance(error, MMHierError):
                raise
            for key, path in paths.items():
                reason = _what_is_wrong(path, key == _MASK)
                if reason is not None:
                    raise MMHierError(
                        f'{path} {reason}: replace the file, or take it out '
                        'of the data set') from error
            raise

    def decode_whole(content: bytes, *args: Any, **kwargs: Any) -> Any:
        if _is_cut_off(content):
            raise MMHierError('the file is cut off')
        return decode(content, *args, **kwargs)

    def load_as_stated(self: LoadImageFromFile,
                       results: dict[str, Any]) -> dict[str, Any] | None:
        stated = results.get('height'), results.get('width')
        loaded = load(self, results)
        if loaded is not None and None not in stated:
            reason = describe_other_size(loaded['ori_shape'], stated)
            if reason is not None:
                raise MMHierError(f'{loaded["img_path"]} {reason}')
        return loaded

    try:
        with (patch.object(Compose, '__call__', call_and_name),
              patch.object(mmcv, 'imfrombytes', decode_whole),
              patch.object(LoadImageFromFile, 'transform', load_as_stated)):
            yield
    except MMHierError as error:
        # A dataloader hands an error of a worker on as its traceback's text.
        text = str(error)
        if text.startswith('Caught MMHierError in DataLoader worker'):
            message = text.rsplit('MMHierError: ', 1)[1].strip()
            raise MMHierError(message) from error
        raise
    except Exception as error:
        if _is_of_lost_worker(error):
            raise MMHierError(
                'a worker process of a dataloader was killed, most often for '
                'want of memory: lower num_workers or batch_size. Checkpoints '
                'that were written are kept: go on from the newest with '
                '--resume') from error
        raise


def _is_of_lost_worker(error: Exception) -> bool:
    """Whether a worker of the dataloader that raised it has died."""
    if re.match(
            r'DataLoader worker \(pid.* (exited unexpectedly|is killed by '
            r'signal)', str(error)):
        return True
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_name != '_try_get_data':
            continue
        # A batch cannot be opened any more once its worker is gone, which the
        # system may report a little later.
        workers = frame.f_locals['self']._workers
        end = time.monotonic() + 2
        try:
            while time.monotonic() < end:
                if any(worker.exitcode is not None for worker in workers):
                    return True
                time.sleep(0.01)
        except RuntimeError:  # torch's own report
            return True
    return False


def _is_cut_off(content: bytes) -> bool:
    """Whether these are the first bytes of a JPEG file, not all of them.

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
    """What is wrong with an image file; None for a sound or remote one."""
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
