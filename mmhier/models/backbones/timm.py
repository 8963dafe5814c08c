"""Backbones of timm behind the interface of mmhier's own."""
import sys
from difflib import get_close_matches
from functools import cached_property
from inspect import signature
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from mmhier.checkpoints.loading import load_backbone_weights
from mmhier.checkpoints.resolving import resolve_checkpoint
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from .base import HierarchicalBackbone

__all__ = ['TimmBackbone']
SCHEME = 'timm://'
# Arguments of some models for images of any size.
ANY_SIZE = dict(
    strict_img_size=False, dynamic_img_size=True, dynamic_img_pad=True)
# Keys of a Pretrained init_cfg that are not for load_backbone_weights.
_INIT_KEYS = ('type', '_scope_', 'checkpoint')


@MODELS.register_module()
class TimmBackbone(HierarchicalBackbone):
    """A model of timm that gives a map per stage, such as Swin or ConvNeXt.

    Maps are numbered from 0 at stride 4; that of stride 2 in ResNets is left
    out. A plain ViT, whose strides are
    all the same, has a map per block. Images are padded with zeros on the
    right and at the bottom to a multiple of the largest stride, as mmdet's
    data preprocessor does, and the maps are cropped.

    Args:
        arch (str): Name of a model that ``timm.list_models()`` lists.
        drop_path_rate (float): Stochastic depth of the last block.
            Defaults to 0.
        model_args (dict, optional): Further arguments of
            ``timm.create_model``. Defaults to None.
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained',
            checkpoint=...)`` takes ``timm://NAME`` with a name that
            ``timm.list_pretrained()`` lists, which timm fetches, or a file in
            the names of timm or of a model of mmhier. Defaults to None,
            timm's initialization.
        **kwargs: ``out_indices``, ``frozen_stages``, ``norm_eval``,
            ``with_cp`` and ``compile`` of
            :class:`~mmhier.models.backbones.base.HierarchicalBackbone`.

    Raises:
        MMHierError: If timm is not installed, has no such model, or the model
            gives no maps.

    Example:
        >>> backbone = dict(
        ...     type='mmhier.TimmBackbone',
        ...     arch='convnext_tiny',
        ...     drop_path_rate=0.1,
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='timm://convnext_tiny.fb_in1k'))
    """

    attn_impls = ('auto', )
    output_strides = (32, )

    def __init__(self,
                 arch: str,
                 drop_path_rate: float = 0.,
                 model_args: dict[str, Any] | None = None,
                 init_cfg: dict | list[dict] | None = None,
                 **kwargs: Any):
        model_args = dict(model_args or {})
        if drop_path_rate:
            model_args['drop_path_rate'] = drop_path_rate
        with torch.device('meta'):
            whole = _create(arch, model_args)
        if not hasattr(whole, 'forward_intermediates'):
            raise MMHierError(f'arch {arch!r} of TimmBackbone gives no maps: '
                              f'{type(whole).__name__} of timm has no '
                              'forward_intermediates')
        for name, value in ANY_SIZE.items():
            if name in signature(type(whole).__init__).parameters:
                model_args.setdefault(name, value)
        levels = [
            i for i, level in enumerate(whole.feature_info)
            if level['reduction'] >= 4
        ]
        maps = [whole.feature_info[i] for i in levels]
        self.all_strides = tuple(level['reduction'] for level in maps)
        kwargs.setdefault('out_indices', range(len(maps))[:4])
        super().__init__(arch, init_cfg=init_cfg, **kwargs)
        self.model_args = model_args
        self.out_channels = tuple(maps[i]['num_chs'] for i in self.out_indices)
        self.model = _create(arch, model_args)
        # mmengine would initialize it after a user's init_cfg.
        self.model.is_init = True
        self.level_names = [level['module'] for level in maps]
        # Removes the stages behind the last map, norm and classifier.
        self.levels = self.model.prune_intermediate_layers(
            [levels[i] for i in self.out_indices], prune_norm=True)
        if self.with_cp:
            self.model.set_grad_checkpointing()
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.register_forward_pre_hook(_keep_statistics)
                    module.register_forward_hook(
                        _restore_statistics, always_call=True)
        self.freeze_stages()

    @classmethod
    def resolve_arch(cls, arch: str | dict) -> dict:
        """Name of a model, checked when it is built."""
        return dict(arch=arch)

    def forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> tuple of (B, out_channels[i], H_i, W_i)."""
        height, width = x.shape[2:]
        multiple = max(self.all_strides)
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        maps = self.model.forward_intermediates(
            x, indices=self.levels, output_fmt='NCHW', intermediates_only=True)
        return tuple(
            out[:, :, :-(-height // stride), :-(-width // stride)].contiguous()
            for out, stride in zip(maps, self.strides))

    def stage_modules(self, stage: int) -> list[nn.Module]:
        roots = {name.split('.')[0] for name in self.level_names}
        stages: list[list[nn.Module]] = [[], []]
        ends = ['.'.join(name.split('.')[:2]) for name in self.level_names]
        for name, child in self.model.named_children():
            if name not in roots:
                stages[0].append(child)
                continue
            parts = [(name, child)]
            if name not in ends:
                parts = [(f'{name}.{key}', part)
                         for key, part in child.named_children()]
            for key, part in parts:
                stages[-1].append(part)
                if key in ends:
                    stages.append([])
        return stages[stage] if stage < len(stages) else []

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        """Tables and tokens of ViTs, which belong to the stem."""
        return [] if stage else list(self.model.parameters(recurse=False))

    @cached_property
    def depths(self) -> dict[str, int]:
        """Depth of each parameter of the model, from timm's groups."""
        groups = _timm().models.group_parameters(
            self.model, self.model.group_matcher(coarse=False), reverse=True)
        order = sorted(set(groups.values()))
        return {name: order.index(group) for name, group in groups.items()}

    @property
    def num_blocks(self) -> int:
        return max(self.depths.values())

    def layer_id(self, name: str) -> int:
        return self.depths[name.removeprefix('model.')]

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Prefix the names of a model of timm."""
        if any(name.startswith('model.') for name in state_dict):
            return None
        return {f'backbone.model.{n}': v for n, v in state_dict.items()}

    def fit_state_dict(self, state_dict: dict[str, Tensor]) -> list[str]:
        """Rename and resize weights of another layout as timm does."""
        own = self.state_dict()
        if all(n in state_dict and state_dict[n].shape == v.shape
               for n, v in own.items()):
            return []
        filter_fn = getattr(sys.modules[type(self.model).__module__],
                            'checkpoint_filter_fn', None)
        if filter_fn is None:
            return []
        with torch.device('meta'):
            whole = _create(self.settings['arch'], self.model_args)
        weights = {
            name.removeprefix('model.'): value
            for name, value in state_dict.items()
        }
        try:
            fitted = filter_fn(weights, whole)
        except (LookupError, RuntimeError):
            # Weights of another architecture; the report says what differs.
            return []
        fitted = {f'model.{name}': value for name, value in fitted.items()}
        resized = [
            name for name, value in fitted.items()
            if name in state_dict and state_dict[name].shape != value.shape
        ]
        state_dict.clear()
        state_dict.update(fitted)
        return resized

    def init_weights(self) -> None:
        """Initialize as timm does, then load pretrained weights."""
        cfg = dict(self.pretrained_cfg or {})
        found = resolve_checkpoint(cfg['checkpoint']) if cfg else ''
        if not found.startswith(SCHEME):
            super().init_weights()
            return
        BaseModule.init_weights(self)
        name = found.removeprefix(SCHEME)
        try:
            model = _create(name, dict(pretrained=True, num_classes=0))
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().partition('\n')[0]
            raise MMHierError(
                f'checkpoint {found}: timm cannot load it: {reason}') from error
        weights = {f'model.{n}': v for n, v in model.state_dict().items()}
        cfg = {k: v for k, v in cfg.items() if k not in _INIT_KEYS}
        load_backbone_weights(self, weights, **cfg)


def _timm() -> ModuleType:
    """The package timm."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MMHierError(
            'mmhier.TimmBackbone needs timm, which is not '
            'installed: run pip install "mmhier[timm]"') from error
    return timm


def _create(arch: str, model_args: dict[str, Any]) -> nn.Module:
    """Build a model of timm."""
    timm = _timm()
    if not isinstance(arch, str) or not timm.is_model(arch):
        close = get_close_matches(str(arch), timm.list_models(), n=1)
        hint = f'; did you mean {close[0]}?' if close else ''
        raise MMHierError(f'unknown arch {arch!r} of TimmBackbone: expected a '
                          f'name that timm.list_models() lists{hint}')
    return timm.create_model(arch, **model_args)


def _keep_statistics(norm: nn.Module, args: tuple) -> None:
    """Store the statistics of a norm that a backward pass computes again."""
    if torch._C._current_graph_task_id() != -1:
        norm.kept_statistics = [buffer.clone() for buffer in norm.buffers()]


def _restore_statistics(norm: nn.Module, args: tuple, out: Tensor) -> None:
    """Put stored statistics back, so that a step updates them once."""
    for buffer, value in zip(norm.buffers(), getattr(norm, 'kept_statistics',
                                                     ())):
        buffer.copy_(value)
    norm.kept_statistics = ()
