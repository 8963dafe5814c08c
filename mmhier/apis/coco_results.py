"""Predictions in COCO's results format."""
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from mmhier.datasets.coco_checks import read_coco
from mmhier.errors import MMHierError


class CocoResults:
    """Image and category ids of predictions.

    Without an annotation file, image ids count from 1 in the order of the
    files, category ids from 1 in the order of the classes.

    Args:
        files (Sequence[str]): Images.
        ann_file (str, optional): COCO json with the ids. Defaults to None.

    Raises:
        MMHierError: If an image is not in ``ann_file``.
    """

    def __init__(self, files: Sequence[str], ann_file: str | None = None):
        self.ann_file = ann_file
        self.image_ids: dict[str, Any] = {
            file: i
            for i, file in enumerate(files, 1)
        }
        self.category_ids: dict[str, Any] | None = None
        if ann_file is None:
            return
        content = read_coco(ann_file)
        read_coco.cache_clear()
        named = {image['file_name']: image['id'] for image in content['images']}
        for file in files:
            parts = PurePath(file).parts
            names = ('/'.join(parts[i:]) for i in range(len(parts)))
            found = next((name for name in names if name in named), None)
            if found is None:
                raise MMHierError(f'{file} is not among the images of '
                                  f'--coco {ann_file}')
            self.image_ids[file] = named[found]
        self.category_ids = {
            category['name']: category['id']
            for category in content['categories']
        }

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse classes that the annotation file lacks.

        Args:
            classes (Sequence[str]): Of the model.

        Raises:
            MMHierError: Names the first class that is missing.
        """
        unknown = [
            name for name in classes if name not in (self.category_ids or {})
        ]
        if self.category_ids is not None and unknown:
            raise MMHierError(f'--coco {self.ann_file} has no category '
                              f'{unknown[0]}, which is a class of the model')

    def rows(self, file: str, instances: Sequence[dict]) -> list[dict]:
        """Results of an image.

        Args:
            file (str): One of ``files``.
            instances (Sequence[dict]): See :class:`mmhier.apis.Predictor`.

        Returns:
            list[dict]: ``image_id``, ``category_id``, ``bbox``, ``score`` and,
            with masks, ``segmentation``.
        """
        rows = []
        for instance in instances:
            row = dict(
                image_id=self.image_ids[file],
                category_id=instance['label'] + 1 if self.category_ids is None
                else self.category_ids[instance['class']],
                bbox=instance['bbox'],
                score=instance['score'])
            if 'mask' in instance:
                row['segmentation'] = instance['mask']
            rows.append(row)
        return rows
