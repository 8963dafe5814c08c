"""Forms of a model that a benchmark compares, built from their names."""
import importlib.util
import os.path as osp
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from mmhier.engine.build import build_model
from mmhier.engine.config import resolve_type
from mmhier.engine.pretrained import find_pretrained
from mmhier.errors import MMHierError
from mmhier.models import backbones
from mmhier.models.backbones.base import HierarchicalBackbone
from mmhier.zoo import config_path
from .plain_forms import PLAIN_FORMS

FAMILIES = {name.lower(): name for name in backbones.__all__}
# Published backbones of like cost, and the channels of their four maps.
PEERS: dict[str, tuple[dict, list[int]]] = {
    'resnet50': (dict(type='mmdet.ResNet', depth=50), [256, 512, 1024, 2048]),
    'swin-t': (dict(
        type='mmdet.SwinTransformer',
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24)), [96, 192, 384, 768]),
    'pvtv2-b2': (dict(
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[3, 4, 6, 3]), [64, 128, 320, 512]),
    'convnext-t': (dict(
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False), [96, 192, 384, 768]),
}
TIMM = 'timm:'
FORMS = ('auto', 'sdpa', 'eager', 'plain', 'channels_last', 'compiled')


class PlainForm(nn.Module):
    """A backbone of this package, computed as its authors' code does it."""

    def __init__(self, backbone: HierarchicalBackbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return PLAIN_FORMS[type(self.backbone)](self.backbone, images)


class ChannelsLast(nn.Module):
    """A model whose convolutions and images are channels-last in memory."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Any:
        return self.model(images.contiguous(memory_format=torch.channels_last))


class WholeModel(nn.Module):
    """A detector, segmentor or classifier as its runner calls it.

    In training it returns its losses, for one object or a label map of a
    single class per image; else the tensors that ``predict`` starts from.

    Args:
        model (nn.Module): Of mmdet, mmseg or mmpretrain.
        scope (str): Which of them.
    """

    def __init__(self, model: nn.Module, scope: str):
        super().__init__()
        self.model = model
        self.scope = scope
        self._batch: tuple[Tensor | None, list] = None, []

    def forward(self, images: Tensor) -> Any:
        if self._batch[0] is not images:
            # Move labels to the device once, not in each timed pass.
            self._batch = images, [self._sample(image) for image in images]
        samples = [sample.new() for sample in self._batch[1]]
        if self.training:
            losses = self.model(images, samples, mode='loss')
            return [
                value for key, values in losses.items() if 'loss' in key
                for value in (values if isinstance(values, list) else [values])
            ]
        if hasattr(getattr(self.model, 'decode_head', None), 'pixel_decoder'):
            # Mask2Former's head needs samples, which 'tensor' leaves out.
            return self.model.encode_decode(
                images, [sample.metainfo for sample in samples])
        if self.scope != 'mmdet':
            return self.model(images, samples, mode='tensor')
        found = self.model(images, samples, mode='predict')
        return [sample.pred_instances.bboxes for sample in found]

    def _sample(self, image: Tensor) -> Any:
        """Ground truth and facts of one image."""
        size = tuple(image.shape[1:])
        meta = dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1., 1.))
        if self.scope == 'mmpretrain':
            from mmpretrain.structures import DataSample
            return DataSample().set_gt_label(0).to(image.device)
        from mmengine.structures import InstanceData, PixelData
        if self.scope == 'mmseg':
            from mmseg.structures import SegDataSample
            labels = torch.zeros(1, *size, dtype=torch.int64)
            return SegDataSample(
                metainfo=meta,
                gt_sem_seg=PixelData(data=labels)).to(image.device)
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        box = torch.tensor([[0., 0., size[1] / 2, size[0] / 2]])
        mask = torch.zeros(1, *size, dtype=torch.uint8)
        mask[:, :size[0] // 2, :size[1] // 2] = 1
        found = InstanceData(
            bboxes=box, labels=torch.zeros(1, dtype=torch.int64))
        sample = DetDataSample(metainfo=meta, gt_instances=found)
        sample.ignored_instances = InstanceData(
            bboxes=box[:0], labels=torch.zeros(0, dtype=torch.int64))
        sample = sample.to(image.device)
        sample.gt_instances.masks = BitmapMasks(mask.numpy(), *size)
        return sample


def load_target(name: str) -> Config:
    """Config of a backbone such as 'hatnet-tiny', of a peer, or of a file.

    Checkpoints that a file names are left out.

    Raises:
        ValueError: If it is none of them.
    """
    family, _, arch = name.partition('-')
    if family in FAMILIES:
        backbone = dict(type=f'mmhier.{FAMILIES[family]}', arch=arch)
        getattr(backbones, FAMILIES[family]).resolve_arch(arch)
        return Config(dict(model=backbone))
    peer = _find_peer(name)
    if peer is not None:
        return Config(dict(model=peer[0]))
    path = config_path(name)
    if osp.isfile(path) and path.endswith('.py'):
        cfg = Config.fromfile(path)
        find_pretrained(cfg, from_scratch=True)
        return cfg
    raise MMHierError(
        f'{name}: expected a config file, a peer ({", ".join(PEERS)} or '
        'timm:NAME of a model of timm), or a backbone such as hatnet-tiny, '
        'lit-small, hvt-s-1 or accvit-tiny')


def _find_peer(name: str) -> tuple[dict, list[int]] | None:
    """Backbone and channels of a peer or a model of timm; None if neither."""
    if name in PEERS:
        return deepcopy(PEERS[name])
    if not name.startswith(TIMM):
        return None
    backbone = dict(type='mmhier.TimmBackbone', arch=name.removeprefix(TIMM))
    with torch.device('meta'):
        return backbone, list(MODELS.build(dict(backbone)).out_channels)


def variant_config(target: Config, form: str) -> Config | None:
    """Config of a form of `target`; None for a callable of the user's.

    Raises:
        ValueError: If the form is unknown, or not one of this model.
    """
    cfg = deepcopy(target)
    backbone = cfg.model.get('backbone', cfg.model)
    found = _find_peer(form)
    if found is not None:
        if target.get('default_scope') == 'mmpretrain':
            raise MMHierError(f'{form}: takes the place of the backbone of '
                              'detectors and segmentors only')
        peer, channels = found
        if backbone is cfg.model:
            cfg.model = peer
        else:
            cfg.model = _with_peer(cfg.model.to_dict(), peer, channels)
        return cfg
    if form in FORMS:
        kind = resolve_type(backbone.get('type'), MODELS)
        if form in ('sdpa', 'eager', 'plain') and kind not in PLAIN_FORMS:
            raise MMHierError(f'{form}: {backbone.get("type")} is no backbone '
                              'of mmhier, expected compiled, channels_last, a '
                              'peer or a callable')
        if form in ('sdpa', 'eager'):
            backbone['attn_impl'] = form
        return cfg
    if ':' in form:
        return None
    raise MMHierError(
        f'{form}: expected one of {", ".join([*FORMS, *PEERS])}, timm:NAME of '
        'a model of timm or FILE.py:NAME, a callable that returns a model')


def _with_peer(model: dict, peer: dict, channels: list[int]) -> dict:
    """A detector or segmentor with another backbone, all else the same."""
    model['backbone'] = peer
    if 'neck' in model:
        model['neck']['in_channels'] = channels
        return model
    for name in ('decode_head', 'auxiliary_head', 'panoptic_head'):
        head = model.get(name)
        if head and 'pixel_decoder' in head:
            head['in_channels'] = channels
        elif head:
            index = head['in_index']
            head['in_channels'] = (
                channels[index]
                if isinstance(index, int) else [channels[i] for i in index])
    return model


def build_variant(target: Config, form: str, training: bool,
                  device: str) -> nn.Module:
    """Build a form of a model with the weights of seed 0.

    Args:
        target (Config): As :func:`load_target` returns it.
        form (str): One of ``FORMS``, a peer, timm:NAME of a model of timm, or
            FILE.py:NAME of a callable that returns a model. Its weights become
            those of `target`, where they are of one family in the authors'
            layout.
        training (bool): Mode of the model.
        device (str): Where to put it.

    Returns:
        nn.Module: Takes images (B, 3, H, W).

    Raises:
        ValueError: If the form is unknown, or does not fit the model.
    """
    init_default_scope(target.get('default_scope', 'mmengine'))
    cfg = variant_config(target, form)
    if cfg is None:
        model = _users_model(form, target)
    else:
        model = _seeded(cfg)
        backbone = getattr(model, 'backbone', model)
        if form == 'plain':
            if backbone is not model:
                raise MMHierError('plain: only of a backbone by itself')
            model = PlainForm(model)
        if form == 'compiled':
            backbone.compile()
        if hasattr(model, 'extract_feat'):
            model = WholeModel(model, target.default_scope)
        if form == 'channels_last':
            model = ChannelsLast(model)
    model.train(training)  # which returns None for some
    return model.to(device)


def _seeded(cfg: Config) -> nn.Module:
    """Model of a config with its initial weights."""
    torch.manual_seed(0)
    model = build_model(cfg)
    if hasattr(model, 'init_weights'):
        model.init_weights()
    for module in model.modules():
        # Timed passes are to be the same each time.
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.
    return model


def _users_model(form: str, target: Config) -> nn.Module:
    path, _, name = form.rpartition(':')
    if not osp.isfile(path):
        raise MMHierError(f'{form}: no file {path}')
    spec = importlib.util.spec_from_file_location('users_model', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise MMHierError(f'{form}: {path} defines no callable {name}')
    torch.manual_seed(0)
    model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        raise MMHierError(f'{form}: returned {type(model).__name__}, expected '
                          'a torch.nn.Module')
    ours = _seeded(target)
    if isinstance(ours, HierarchicalBackbone):
        _copy_weights(ours, model)
    return model


def _copy_weights(ours: HierarchicalBackbone, theirs: nn.Module) -> None:
    """Give the authors' model our weights, as far as its layout is known.

    Which of ours becomes which of theirs is found by converting a state dict
    of theirs that holds the number of each entry.
    """
    numbered = {
        name: torch.full_like(value, i, dtype=torch.float64)
        for i, (name, value) in enumerate(theirs.state_dict().items())
    }
    names = list(numbered)
    converted = type(ours).convert_official(numbered)
    if converted is None:
        return
    own = ours.state_dict()
    copied = theirs.state_dict()
    for name, number in converted.items():
        source = own.get(name.removeprefix('backbone.'))
        if source is not None and number.numel():
            official = names[int(number.flatten()[0])]
            if copied[official].shape == source.shape:
                copied[official] = source
    theirs.load_state_dict(copied)
