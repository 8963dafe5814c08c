"""Test-time augmentation of detectors, masks included."""
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models import DetTTAModel as MMDetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, bbox_flip
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor
from mmhier.errors import MMHierError
from mmhier.registry import MODELS

__all__ = ['DetTTAModel']


@MODELS.register_module()
class DetTTAModel(MMDetTTAModel):
    """mmdet's DetTTAModel with masks.

    Boxes of all views, each after its own NMS, are mapped to the image and
    merged by one more NMS. The mask head is applied to the merged boxes in
    every view and its probabilities are averaged, as in Detectron and mmdet
    2.x.

    Args:
        tta_cfg (dict, optional): ``nms`` and ``max_per_img`` of the
            merged boxes. Defaults to None: NMS at IoU 0.5, 100 boxes.
        **kwargs: ``module``, the model, and ``data_preprocessor``.

    Raises:
        MMHierError: On the first test step, if a model predicts masks
            without an RoI head, or the views lack ``flip``.
    """

    def __init__(self, tta_cfg: dict | None = None, **kwargs: Any) -> None:
        default = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        super().__init__(ConfigDict(tta_cfg or default), **kwargs)

    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict and merge.

        Args:
            data (dict[str, list]): 'inputs' and 'data_samples', each a list
                over the views of lists over the images.

        Returns:
            list[DetDataSample]: One per image, in its coordinates.
        """
        # with_mask is False for mmdet's MaskFormer and Mask2Former.
        if not self.module.with_mask and not hasattr(self.module,
                                                     'panoptic_head'):
            return super().test_step(data)
        if not getattr(self.module, 'with_roi_head', False):
            raise MMHierError(
                'mmhier.DetTTAModel merges masks of RoI heads only, and '
                f'{type(self.module).__name__} has none: test it without '
                'test-time augmentation')
        features, views = [], []
        for values in zip(*data.values()):
            maps, samples = self._predict_boxes(dict(zip(data, values)))
            features.append(maps)
            views.append(samples)
        merged = self.merge_preds(list(zip(*views)))
        self._predict_masks(features, views, merged)
        return merged

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[DetDataSample]]
    ) -> list[DetDataSample]:
        """Merge the boxes of the views of each image.

        Args:
            data_samples_list (Sequence[Sequence[DetDataSample]]): Views
                of each image.
        """
        for sample in data_samples_list[0]:
            if not {'flip', 'flip_direction'} <= sample.metainfo.keys():
                raise MMHierError(
                    'the views of tta_pipeline do not say how they are '
                    'flipped: add flip and flip_direction to meta_keys '
                    'of its PackDetInputs, and a RandomFlip before it')
        return super().merge_preds(data_samples_list)

    def _predict_boxes(self, view: dict[str, list]) -> tuple:
        """Feature maps, and samples with boxes in the flipped image."""
        batch = self.module.data_preprocessor(view, False)
        samples = batch['data_samples']
        maps = self.module.extract_feat(batch['inputs'])
        proposals = self.module.rpn_head.predict(maps, samples, rescale=False)
        roi_head = self.module.roi_head
        results = roi_head.predict_bbox(
            maps, [sample.metainfo for sample in samples],
            proposals,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True)
        for sample, instances in zip(samples, results):
            sample.pred_instances = instances
        return maps, samples

    def _predict_masks(self, features: list[tuple],
                       views: list[list[DetDataSample]],
                       merged: list[DetDataSample]) -> None:
        """Add the masks of merged boxes, averaged over the views."""
        results = [
            InstanceData(
                bboxes=sample.pred_instances.bboxes,
                scores=sample.pred_instances.scores,
                labels=sample.pred_instances.labels) for sample in merged
        ]
        counts = [len(instances) for instances in results]
        probabilities: Any = 0
        for maps, samples in zip(features, views):
            rois = bbox2roi([
                _boxes_in_view(instances.bboxes, sample.metainfo)
                for instances, sample in zip(results, samples)
            ])
            if len(rois) == 0:
                break
            masks = self._mask_probabilities(maps, rois).split(counts)
            probabilities = probabilities + torch.cat([
                _unflip(mask, sample.metainfo)
                for mask, sample in zip(masks, samples)
            ]) / len(views)
        if sum(counts) == 0:
            probabilities = features[0][0].new_zeros(0, 1, 1, 1)
        roi_head = self.module.roi_head
        head = roi_head.mask_head
        if isinstance(head, torch.nn.ModuleList):
            head = head[-1]
        # The boxes are in the image already.
        metas = [
            dict(ori_shape=sample.ori_shape, scale_factor=(1., 1.))
            for sample in merged
        ]
        results = head.predict_by_feat(
            probabilities.split(counts),
            results,
            metas,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
            activate_map=True)
        for sample, instances in zip(merged, results):
            sample.pred_instances = instances

    def _mask_probabilities(self, maps: tuple, rois: Tensor) -> Tensor:
        """(n, classes, h, w), averaged over the stages of a cascade."""
        roi_head = self.module.roi_head
        if not isinstance(roi_head.mask_head, torch.nn.ModuleList):
            return roi_head._mask_forward(maps, rois)['mask_preds'].sigmoid()
        stages = [
            roi_head._mask_forward(stage, maps, rois)['mask_preds'].sigmoid()
            for stage in range(roi_head.num_stages)
        ]
        return torch.stack(stages).mean(0)


def _boxes_in_view(boxes: Tensor, meta: dict[str, Any]) -> Tensor:
    """Boxes (n, 4) of an image in the pixels of one of its views."""
    if meta['flip']:
        boxes = bbox_flip(boxes, meta['ori_shape'], meta['flip_direction'])
    return boxes * boxes.new_tensor(meta['scale_factor']).repeat(2)


def _unflip(masks: Tensor, meta: dict[str, Any]) -> Tensor:
    """Masks (n, classes, h, w) of a view, flipped back."""
    if not meta['flip']:
        return masks
    dims = dict(horizontal=(3, ), vertical=(2, ), diagonal=(2, 3))
    return masks.flip(dims[meta['flip_direction']])
