"""Memory of loaded annotations."""
import ctypes
import sys
from typing import Any

import numpy as np


def release_parsed_annotations(dataset: Any) -> None:
    """Free the memory of the json that mmdet's datasets have parsed.

    ``cat_img_map`` keeps the id of the image of each annotation as one of the
    objects of the json. Python frees memory in blocks, and these ids lie in
    most blocks of the numbers around them, so that several times the
    serialized annotations would stay. The ids are copied to arrays instead.

    Args:
        dataset (Dataset): Of any package; changed in place, below wrappers
            such as ConcatDataset too.
    """
    inner = getattr(dataset, 'datasets',
                    None) or [getattr(dataset, 'dataset', None)]
    for part in inner:
        if part is not None:
            release_parsed_annotations(part)
    ids = getattr(dataset, 'cat_img_map', None)
    if isinstance(ids, dict):
        dataset.cat_img_map = {
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
