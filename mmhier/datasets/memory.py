"""Memory of loaded annotations."""
import ctypes
import sys
from typing import Any

import numpy as np
from .wrappers import inner_datasets


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
