"""Writing of the predicted classes of segmentors."""
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import DumpResults
from torch import uint8


class DumpSegResults(DumpResults):
    """mmengine's DumpResults with classes as bytes, without logits.

    Logits take 200 MB for each photo of ADE20K. Ground truth is left out too.
    """

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the image path, shapes and predicted classes."""
        kept = []
        for sample in predictions:
            sample = {
                key: value
                for key, value in sample.items()
                if key not in ('seg_logits', 'gt_sem_seg')
            }
            labels = sample['pred_sem_seg']['data']
            if labels.max() < 256:
                labels = labels.to(uint8)
            sample['pred_sem_seg'] = dict(data=labels)
            kept.append(sample)
        super().process(data_batch, kept)
