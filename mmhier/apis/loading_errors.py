"""What goes wrong while data is loaded, in one line that names the file."""
import re
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Optional

import cv2
import numpy as np
from mmengine.dataset import Compose
from .errors import UserError

_FILE_KEYS = ('img_path', 'seg_map_path')

# Ratio of sides from which a resized image may have none left.
_NARROW = 100


@contextmanager
def named_loading_errors() -> Iterator[None]:
    """Name the file of a sample that cannot be loaded, and a lost worker.

    Within it, a pipeline that fails on an image or mask that cannot be
    decoded raises UserError with its path, in the main process and in the
    forked workers of a dataloader. An error of a pipeline whose files can be
    decoded passes through as it is.

    Raises:
        UserError: If a file cannot be decoded, or a worker of a dataloader
            was killed.
    """
    call = Compose.__call__

    def call_and_name(self: Compose, data: Dict[str, Any]) -> Any:
        paths = [data.get(key) for key in _FILE_KEYS]
        try:
            return call(self, data)
        except (AssertionError, AttributeError, OSError, TypeError,
                ValueError, cv2.error) as error:
            if isinstance(error, UserError):
                raise
            for path in paths:
                reason = _what_is_wrong(path)
                if reason is not None:
                    raise UserError(
                        f'{path} {reason}: replace the file, or take it out '
                        'of the data set') from error
            raise

    Compose.__call__ = call_and_name
    try:
        yield
    except UserError as error:
        # A dataloader hands an error of a worker on as its traceback's text.
        text = str(error)
        if text.startswith('Caught UserError in DataLoader worker'):
            message = text.rsplit('UserError: ', 1)[1].strip()
            raise UserError(message) from error
        raise
    except RuntimeError as error:
        if re.match(r'DataLoader worker \(pid.* (exited unexpectedly|is '
                    r'killed by signal)', str(error)):
            raise UserError(
                'a worker process of a dataloader was killed, most often for '
                'want of memory: lower num_workers or batch_size. Checkpoints '
                'that were written are kept: go on from the newest with '
                '--resume') from error
        raise
    finally:
        Compose.__call__ = call


def _what_is_wrong(path: Any) -> Optional[str]:
    """What is wrong with an image file; None for a sound or remote one."""
    if not isinstance(path, str) or '://' in path:
        return None
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        return f'cannot be read ({error.strerror})'
    if not content.size:
        return 'is empty'
    try:
        decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None:
        return 'is not an image that can be decoded'
    height, width = decoded.shape[:2]
    if max(height, width) > _NARROW * min(height, width):
        return f'is {width} x {height} pixels, too narrow to be resized'
    return None
