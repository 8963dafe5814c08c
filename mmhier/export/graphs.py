"""Exported modules, from images to tensors at any height and width.

Images are float32, normalised, padded and in the channel order that the data
preprocessor of the model gives them.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from mmhier.errors import MMHierError

MIN_SIZE, MAX_SIZE = 64, 4096
MAX_BATCH = 1024
Shape = tuple[Any, ...]


class ExportGraph(nn.Module):
    """A module with the facts that its export needs.

    Attributes:
        name (str): '' or, if a model becomes several files, the end of this
            one's name.
        inputs (dict[str, tuple]): Shape of each input tensor by name, free
            lengths named.
        outputs (dict[str, tuple]): The same for the output tensors.
        min_program_size (int): Least height and width that a program of
            torch takes; an ONNX graph takes ``MIN_SIZE``.
    """

    name = ''
    min_program_size = MIN_SIZE
    inputs: dict[str, Shape] = dict(images=('batch', 3, 'height', 'width'))
    outputs: dict[str, Shape]

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """Free lengths, as torch.export asks for them."""
        length = torch.export.Dim.DYNAMIC(min=MIN_SIZE, max=MAX_SIZE)
        batch = torch.export.Dim.DYNAMIC(min=1, max=MAX_BATCH)
        return ({0: batch, 2: length, 3: length}, )

    def example_inputs(self, batch: int, height: int,
                       width: int) -> tuple[Any, ...]:
        """Random inputs for images of a size, the same in each call."""
        return (random_images(batch, height, width), )


class BackboneGraph(ExportGraph):
    """Maps of a backbone, in the order of its ``out_indices``."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.outputs = {
            f'stride{stride}': ('batch', channels, f'ceil(height / {stride})',
                                f'ceil(width / {stride})')
            for stride, channels in zip(backbone.strides, backbone.out_channels)
        }

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> maps."""
        return tuple(self.backbone(images))


class ClassifierGraph(ExportGraph):
    """Scores of the classes, which add up to 1."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        with torch.no_grad():
            scores = self(random_images(1, MIN_SIZE, MIN_SIZE))
        self.outputs = dict(scores=('batch', scores.shape[1]))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        return self.model.head(self.model.extract_feat(images)).softmax(1)


class SegmentorGraph(ExportGraph):
    """Logits of the classes for each pixel of the images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs = dict(
            logits=('batch', model.decode_head.out_channels, 'height', 'width'))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes, H, W)."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(images))
        return F.interpolate(
            logits,
            images.shape[2:],
            mode='bilinear',
            align_corners=head.align_corners)


def build_graphs(model: nn.Module, part: str = 'model') -> list[ExportGraph]:
    """Cut a model into graphs that can be exported.

    Args:
        model (nn.Module): In eval mode. Backbones of mmhier, classifiers of
            mmpretrain with softmax, EncoderDecoder of mmseg, RetinaNet and
            two-stage detectors of mmdet with one RPN and one RoI head.
        part (str): 'model' or 'backbone'. Defaults to 'model'.

    Returns:
        list[ExportGraph]: One; for two-stage detectors one to each
        non-maximum suppression and one for the masks, see
        :mod:`mmhier.export.detection_graphs`.

    Raises:
        MMHierError: If the model has a part that cannot be exported.
    """
    if part == 'backbone':
        backbone = getattr(model, 'backbone', None)
        if not hasattr(backbone, 'strides'):
            raise MMHierError(
                f'backbone {type(backbone).__name__} declares no strides: '
                '--part backbone exports backbones of mmhier')
        return [BackboneGraph(backbone)]
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):
        from .detection_graphs import build_detection_graphs
        return build_detection_graphs(model)
    if hasattr(model, 'decode_head'):
        if isinstance(model.decode_head, nn.ModuleList):  # a cascade
            raise unsupported(model)
        if not hasattr(model.decode_head, 'conv_seg'):
            raise unsupported(model, 'decode_head', model.decode_head)
        with torch.no_grad():
            features = model.extract_feat(random_images(1, MIN_SIZE, MIN_SIZE))
            if not isinstance(model.decode_head(features), Tensor):
                # Such as DAHead and EncHead, with losses of their own.
                raise unsupported(model, 'decode_head', model.decode_head)
        return [SegmentorGraph(model)]
    if hasattr(model, 'head'):
        from mmpretrain.models.heads import ClsHead
        if not isinstance(model.head, ClsHead):
            raise unsupported(model, 'head', model.head)
        return [ClassifierGraph(model)]
    raise unsupported(model)


def unsupported(model: nn.Module,
                key: str | None = None,
                part: Any = None) -> MMHierError:
    """Error that names the part that prevents the export of a model; the
    whole model by default."""
    owner = '' if key is None else f' with {key}.type={type(part).__name__}'
    return MMHierError(
        f'{type(model).__name__}{owner} cannot be exported as a whole: export '
        'its backbone with --part backbone')


def random_images(batch: int, height: int, width: int) -> Tensor:
    """Normal noise (batch, 3, height, width), always the same."""
    generator = torch.Generator().manual_seed(height * MAX_SIZE + width)
    return torch.randn(batch, 3, height, width, generator=generator)
