"""Pictures of the samples of a dataset with their annotations."""
import os.path as osp
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS


def annotated_pictures(
        cfg: Config,
        split: str = 'train') -> Iterator[tuple[str, np.ndarray | str]]:
    """Draw samples of a dataset after its pipeline, with annotations.

    Args:
        cfg (Config): Of mmdet, mmseg or mmpretrain; its package is the
            default scope.
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.

    Yields:
        tuple[str, np.ndarray | str]: Name of the image file, '' if the
        pipeline drops it, and the picture, (H, W, 3) uint8 RGB, or the error
        of the pipeline. Samples that the pipeline rejects are replaced by
        random others, as in training.
    """
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    # Visualizers are global by name; each call needs a new one.
    visualizer = VISUALIZERS.build(
        dict(
            cfg.visualizer,
            vis_backends=None,
            name=f'{split} samples {time.time_ns()}'))
    visualizer.dataset_meta = dataset.metainfo
    if hasattr(visualizer, 'alpha'):
        # mmseg's default hides the image.
        visualizer.alpha = 0.6
    for index in range(len(dataset)):
        try:
            item = dataset[index]
        # Errors of the packages' loaders for missing or broken files.
        except (OSError, ValueError, AttributeError, AssertionError,
                cv2.error) as error:
            info = dataset.get_data_info(index)
            name = osp.basename(info.get('img_path', ''))
            yield name, ' '.join(str(error).split()) or type(error).__name__
            continue
        image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
        sample = item['data_samples']
        name = osp.basename(getattr(sample, 'img_path', None) or '')
        yield name, _draw(visualizer, image, sample)


def _draw(visualizer: Any, image: np.ndarray, sample: Any) -> np.ndarray:
    if hasattr(visualizer, 'visualize_cls'):
        visualizer.visualize_cls(image, sample, draw_pred=False)
        return visualizer.get_image()
    instances = getattr(sample, 'gt_instances', None)
    if instances is not None:
        # mmdet's visualizer draws neither its own boxes nor its own masks.
        if hasattr(instances.get('bboxes'), 'tensor'):
            instances.bboxes = instances.bboxes.tensor
        if 'masks' in instances:
            from mmdet.models.utils import mask2ndarray
            instances.masks = mask2ndarray(instances.masks).astype(bool)
    visualizer.add_datasample('', image, sample, draw_pred=False)
    return visualizer.get_image()
