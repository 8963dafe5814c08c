"""Memory of loaded annotations."""
import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np
from mmhier.errors import MMHierError
from .wrappers import inner_datasets


def call_in_child(function: Callable, *args: Any) -> Any:
    """Call a function in a forked process, all of whose memory is freed.

    A parsed annotation file takes several times its size, and the objects
    that outlive it pin part of that for the rest of a training. Without a
    safe fork, as on macOS and Windows, the function is called here.

    Args:
        function (Callable): Of a module. Its result and errors are pickled.
        *args: Its arguments, pickled too.

    Raises:
        MMHierError: If the process was killed.
    """
    if sys.platform != 'linux':
        return function(*args)
    with ProcessPoolExecutor(1, get_context('fork')) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise MMHierError(
                'the process that reads annotations was killed, probably for '
                'want of memory') from error


def release_parsed_annotations(dataset: Any) -> None:
    """Free the memory of the json that mmdet's datasets have parsed.

    ``cat_img_map`` keeps an image id of each annotation, an object that the
    json parser created among all other numbers. Python frees memory in blocks
    only, and nearly every block holds such an id, so several times the size of
    the serialized annotations would stay. Copy the ids to arrays instead.

    Args:
        dataset (Dataset): Of any package; changed in place, below wrappers
            such as ConcatDataset too.
    """
    for part in inner_datasets(dataset):
        ids = getattr(part, 'cat_img_map', None)
        if isinstance(ids, dict):
            part.cat_img_map = {
                category:
                np.array(images) if all(isinstance(i, int)
                                        for i in images) else images
                for category, images in ids.items()
            }
            return_freed_memory()


def return_freed_memory() -> None:
    """Give freed memory back to the system, where malloc can."""
    if sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
        if trim is not None:
            trim(0)
