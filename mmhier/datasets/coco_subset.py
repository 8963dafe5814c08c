"""Chosen photos of a COCO-style dataset."""
from collections.abc import Sequence
from typing import Any

from mmdet.datasets import CocoDataset
from mmhier.errors import MMHierError
from mmhier.registry import DATASETS


@DATASETS.register_module()
class CocoSubset(CocoDataset):
    """Those images of a COCO-style dataset whose ids are listed.

    Args:
        img_ids (Sequence[int]): Image ids, as in the annotation file.
        **kwargs: Arguments of :class:`mmdet.datasets.CocoDataset`.

    Raises:
        ValueError: If an id is not in the annotation file.
    """

    def __init__(self, *args: Any, img_ids: Sequence[int],
                 **kwargs: Any) -> None:
        self.img_ids = set(img_ids)
        super().__init__(*args, **kwargs)

    def filter_data(self) -> list[dict]:
        """Filter by ``filter_cfg`` in training, and by id always."""
        unknown = self.img_ids - {info['img_id'] for info in self.data_list}
        if unknown:
            raise MMHierError(f'img_ids of CocoSubset not in {self.ann_file}: '
                              f'{sorted(unknown)}')
        return [
            info for info in super().filter_data()
            if info['img_id'] in self.img_ids
        ]
