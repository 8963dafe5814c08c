"""Cost of a whole detector, segmentor or classifier for one image."""
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from mmhier.engine.build import build_model
from .complexity import Complexity, count_complexity

NUM_BOX_PROPOSALS = 1000
NUM_MASK_PROPOSALS = 100
aten = torch.ops.aten
COSTLY = (aten.addmm.default, aten.bmm.default, aten.convolution.default,
          aten.mm.default, aten.grid_sampler_2d.default,
          aten._scaled_dot_product_flash_attention_for_cpu.default)


class _ZeroProducts(TorchDispatchMode):
    """Replace the results of costly operators with zeros.

    For models that read values of tensors, such as the shapes in deformable
    attention, which FakeTensorMode does not hold.
    """

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if func not in COSTLY:
            return func(*args, **kwargs or {})
        on_meta = tree_map_only(Tensor, lambda x: x.to('meta'),
                                (args, kwargs or {}))
        return tree_map_only(Tensor,
                             lambda x: torch.zeros_like(x, device='cpu'),
                             func(*on_meta[0], **on_meta[1]))


class InferencePass(nn.Module):
    """Every layer of a model that inference needs, on arbitrary values.

    Box heads see 1000 proposals an image and mask heads 100, the convention
    of mmdet 2.x and of the papers. RoIAlign, NMS and auxiliary heads are left
    out. Models like DETR and MaskFormer run as a whole.

    Args:
        model (nn.Module): Of mmdet, mmseg or mmpretrain, or a backbone.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        """Run the layers on images (B, 3, H, W)."""
        model = self.model
        if not hasattr(model, 'extract_feat'):
            model(images)
            return
        if _is_detr(model):
            model(images, _samples(images), mode='tensor')
            return
        maps = model.extract_feat(images)
        if _is_mask_transformer(model):
            head = getattr(model, 'panoptic_head', None) or model.decode_head
            head(maps, _samples(images))
            return
        for name in ('rpn_head', 'bbox_head', 'decode_head', 'head'):
            for head in _modules(getattr(model, name, None)):
                head(maps)
        roi_head = getattr(model, 'roi_head', None)
        kinds = (('bbox', NUM_BOX_PROPOSALS), ('mask', NUM_MASK_PROPOSALS))
        for kind, num_proposals in kinds:
            heads = _modules(getattr(roi_head, f'{kind}_head', None))
            extractors = _modules(
                getattr(roi_head, f'{kind}_roi_extractor', None))
            for head, extractor in zip(heads, extractors):
                size = extractor.roi_layers[0].output_size
                head(maps[0].new_zeros(
                    len(images) * num_proposals, maps[0].shape[1], *size))


def _is_detr(model: nn.Module) -> bool:
    return hasattr(model, 'forward_transformer')


def _is_mask_transformer(model: nn.Module) -> bool:
    """Whether the head is one of MaskFormer or Mask2Former."""
    head = getattr(model, 'panoptic_head', getattr(model, 'decode_head', None))
    return hasattr(head, 'pixel_decoder')


def _samples(images: Tensor) -> list[Any]:
    """Metadata of unpadded images, which transformers mask by."""
    size = tuple(images.shape[2:])
    meta = dict(batch_input_shape=size, img_shape=size, pad_shape=size)
    return [BaseDataElement(metainfo=meta) for _ in images]


def _modules(part: nn.Module | None) -> Iterator[nn.Module]:
    """Modules of a part that may be absent, one or several."""
    if part is not None:
        yield from part if isinstance(part, nn.ModuleList) else [part]


def count_config_complexity(cfg: Config,
                            input_size: Sequence[int]) -> Complexity:
    """Count parameters and multiply-adds of the model of a config.

    No products are computed, so the size costs no time. Models like DETR and
    MaskFormer take the memory of an inference, others that of their parameters.

    Args:
        cfg (Config): Of mmdet, mmseg or mmpretrain; only ``model`` and
            ``default_scope`` are read.
        input_size (Sequence[int]): Height and width of the image, in pixels.

    Returns:
        Complexity: For one image; see :class:`InferencePass` for what runs.
    """
    # Not under FakeTensorMode, which models that deep-copy layers would copy
    # too: each copy of its weak references to storages frees them once more.
    model = build_model(cfg)
    context: Any = FakeTensorMode(allow_non_fake_inputs=True)
    if _is_detr(model) or _is_mask_transformer(model):
        context = _ZeroProducts()
    with context:
        cost = count_complexity(InferencePass(model), (1, 3, *input_size))
    macs, params = ({
        name.partition('.')[2]: value
        for name, value in values.items() if '.' in name
    } for values in (cost.macs_by_module, cost.params_by_module))
    # Children come after their parents. Modules that are not called, such as
    # RoI heads, get what their children take.
    for name in reversed(params):
        if name not in macs:
            macs[name] = sum(macs[child] for child in params
                             if child.rpartition('.')[0] == name)
    return Complexity(cost.params, cost.macs, cost.attention_macs, macs, params)
