"""Detectors of mmdet, cut where non-maximum suppression comes in.

Boxes are x1, y1, x2, y2 in pixels of the padded images and not clipped to
them: how much is padding, the caller knows, and clips to what is not before
it suppresses boxes, as mmdet does.
"""
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torchvision.ops import roi_align
from .graphs import ExportGraph, Shape, random_images, unsupported

NUM_EXAMPLE_ROIS = 30


def build_detection_graphs(model: nn.Module) -> list[ExportGraph]:
    """Graphs of a detector; see :func:`mmhier.export.build_graphs`."""
    if not hasattr(model, 'roi_head'):
        if not isinstance(model.bbox_head, RetinaHead):
            raise unsupported(model, 'bbox_head', model.bbox_head)
        return [DenseDetectorGraph(model)]
    if not isinstance(model.rpn_head, RPNHead):
        raise unsupported(model, 'rpn_head', model.rpn_head)
    roi_head = model.roi_head
    if type(roi_head) is not StandardRoIHead or roi_head.with_shared_head:
        raise unsupported(model, 'roi_head', roi_head)
    kinds = ['bbox', 'mask'] if roi_head.with_mask else ['bbox']
    for kind in kinds:
        extractor = getattr(roi_head, f'{kind}_roi_extractor')
        if (type(extractor) is not SingleRoIExtractor or not all(
                isinstance(layer, RoIAlign) and layer.pool_mode == 'avg'
                for layer in extractor.roi_layers)):
            raise unsupported(model, f'roi_head.{kind}_roi_extractor',
                              extractor)
    graphs: list[ExportGraph] = [ProposalGraph(model), BoxGraph(roi_head)]
    if roi_head.with_mask:
        graphs.append(MaskGraph(roi_head))
    return graphs


def decode_anchors(head: nn.Module, scores: Sequence[Tensor],
                   deltas: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes and scores of all anchors of a dense head.

    Args:
        head (nn.Module): An ``AnchorHead`` of mmdet.
        scores (Sequence[Tensor]): Logits of each level,
            (B, num_anchors * C, H_i, W_i).
        deltas (Sequence[Tensor]): (B, num_anchors * 4, H_i, W_i).

    Returns:
        tuple[Tensor, Tensor]: Boxes (B, N, 4) and scores without background
        (B, N, C); anchors by level, row, column and kind.
    """
    batch = scores[0].shape[0]
    anchors = torch.cat(
        head.prior_generator.grid_priors([level.shape[2:] for level in scores],
                                         dtype=deltas[0].dtype,
                                         device=deltas[0].device))
    flat_scores = _flatten(scores, head.cls_out_channels)
    flat_deltas = _flatten(deltas, head.bbox_coder.encode_size)
    boxes = head.bbox_coder.decode(
        anchors.expand(batch, *anchors.shape).reshape(-1, 4),
        flat_deltas.flatten(0, 1))
    if head.use_sigmoid_cls:
        flat_scores = flat_scores.sigmoid()
    else:
        flat_scores = flat_scores.softmax(-1)[..., :-1]
    return boxes.view(batch, -1, 4), flat_scores


def _flatten(levels: Sequence[Tensor], channels: int) -> Tensor:
    """(B, num_anchors * channels, H_i, W_i) each -> (B, N, channels)."""
    return torch.cat([
        level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)
        for level in levels
    ], 1)


class DenseDetectorGraph(ExportGraph):
    """Boxes and scores of every anchor, before score threshold and NMS."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs = dict(
            boxes=('batch', 'anchors', 4),
            scores=('batch', 'anchors', model.bbox_head.num_classes))
        self.min_program_size = _two_cells(model.bbox_head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, N, 4) and (B, N, num_classes)."""
        head = self.model.bbox_head
        return decode_anchors(head, *head(self.model.extract_feat(images)))


class ProposalGraph(ExportGraph):
    """Boxes and scores of the RPN's anchors, and the maps for the RoI heads.

    ``levels`` is the pyramid level of each anchor: mmdet keeps the best
    ``nms_pre`` of each level and suppresses within levels.
    """

    name = 'proposals'

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs = dict(
            boxes=('batch', 'anchors', 4),
            scores=('batch', 'anchors'),
            levels=('anchors', ),
            **_map_shapes(model.roi_head))
        self.min_program_size = _two_cells(model.rpn_head)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> (B, N, 4), (B, N), (N, ), maps."""
        head = self.model.rpn_head
        maps = self.model.extract_feat(images)
        scores, deltas = head(maps)
        boxes, objectness = decode_anchors(head, scores, deltas)
        kinds = head.num_base_priors
        levels = torch.cat([
            torch.full((level.shape[2] * level.shape[3] * kinds, ), i)
            for i, level in enumerate(scores)
        ])
        num_maps = len(_map_shapes(self.model.roi_head))
        return (boxes, objectness.squeeze(2), levels, *maps[:num_maps])


class RoIGraph(ExportGraph):
    """Base of the graphs that read regions of interest from maps.

    Args:
        roi_head (nn.Module): mmdet's ``StandardRoIHead``.
        head (nn.Module): What the cut out regions go through.
        extractor (nn.Module): mmdet's ``SingleRoIExtractor``.
    """

    def __init__(self, roi_head: nn.Module, head: nn.Module,
                 extractor: nn.Module):
        super().__init__()
        self.head = head
        self.extractor = extractor
        self.inputs = dict(_map_shapes(roi_head), rois=('rois', 5))

    def dynamic_shapes(self) -> tuple[Any, ...]:
        free = torch.export.Dim.DYNAMIC
        maps = [{0: free, 2: free, 3: free} for _ in range(self.num_maps)]
        return maps, {0: free}

    @property
    def num_maps(self) -> int:
        """Number of maps among the inputs."""
        return len(self.inputs) - 1

    def example_inputs(self, batch: int, height: int,
                       width: int) -> tuple[Any, ...]:
        """Random maps and boxes of all sizes for images of a size."""
        channels = self.inputs['map0'][1]
        maps = []
        for stride in self.extractor.featmap_strides:
            level = random_images(batch * channels, -(-height // stride),
                                  -(-width // stride))
            maps.append(level[:, 0].unflatten(0, (batch, channels)))
        generator = torch.Generator().manual_seed(0)
        centre, size = torch.rand(2, NUM_EXAMPLE_ROIS, 2, generator=generator)
        size = size**3 * torch.tensor([width, height])
        centre = centre * torch.tensor([width, height])
        index = torch.arange(NUM_EXAMPLE_ROIS).remainder(batch)[:, None]
        return maps, torch.cat((index, centre - size / 2, centre + size / 2), 1)

    def cut_out(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Regions (K, C, h, w), each from the map of the level of its size."""
        levels = self.extractor.map_roi_levels(rois, len(maps))
        rows, regions = [], []
        for i, (level,
                layer) in enumerate(zip(maps, self.extractor.roi_layers)):
            row, = torch.where(levels == i)
            rows.append(row)
            regions.append(
                roi_align(level, rois[row], layer.output_size,
                          layer.spatial_scale, layer.sampling_ratio,
                          layer.aligned))
        # An argsort of the rows would have a length unknown to the tracer.
        regions = torch.cat(regions)
        out = regions.new_zeros(rois.shape[0], *regions.shape[1:])
        return out.index_put((torch.cat(rows), ), regions)


class BoxGraph(RoIGraph):
    """Scores (background last) and boxes of proposals."""

    name = 'boxes'

    def __init__(self, roi_head: nn.Module):
        super().__init__(roi_head, roi_head.bbox_head,
                         roi_head.bbox_roi_extractor)
        head = self.head
        self.num_boxes = 1 if head.reg_class_agnostic else head.num_classes
        self.outputs = dict(
            scores=('rois', head.num_classes + 1),
            boxes=('rois', self.num_boxes, 4))

    def forward(self, maps: list[Tensor],
                rois: Tensor) -> tuple[Tensor, Tensor]:
        """Maps, (K, 5) -> (K, num_classes + 1), (K, num_classes or 1, 4)."""
        scores, deltas = self.head(self.cut_out(maps, rois))
        boxes = self.head.bbox_coder.decode(rois[:, 1:], deltas)
        return scores.softmax(1), boxes.view(-1, self.num_boxes, 4)


class MaskGraph(RoIGraph):
    """Mask logits of detections, of each class, on a grid over its box."""

    name = 'masks'

    def __init__(self, roi_head: nn.Module):
        super().__init__(roi_head, roi_head.mask_head,
                         roi_head.mask_roi_extractor)
        head = self.head
        size = self.extractor.roi_layers[0].output_size
        scale = head.scale_factor if head.upsample is not None else 1
        num_masks = 1 if head.class_agnostic else head.num_classes
        self.outputs = dict(
            masks=('rois', num_masks, size[0] * scale, size[1] * scale))

    def forward(self, maps: list[Tensor], rois: Tensor) -> Tensor:
        """Maps, (K, 5) -> (K, num_classes or 1, h, w)."""
        return self.head(self.cut_out(maps, rois))


def _two_cells(head: nn.Module) -> int:
    """Size from which the coarsest level has more than one cell.

    torch.export takes lengths of one and of more for different programs.
    """
    return max(max(s) for s in head.prior_generator.strides) + 1


def _map_shapes(roi_head: nn.Module) -> dict[str, Shape]:
    """Shapes of the maps that the RoI heads read, by name."""
    extractor = roi_head.bbox_roi_extractor
    return {
        f'map{i}': ('batch', extractor.out_channels, f'ceil(height / {stride})',
                    f'ceil(width / {stride})')
        for i, stride in enumerate(extractor.featmap_strides)
    }
