"""The contract that every mmhier backbone keeps."""
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from mmhier.checkpoints.loading import load_backbone_weights
from mmhier.errors import MMHierError
from ..layers import (
    any_size,
    call_block,
    call_compiled,
    recompute_block,
    shared_masks,
    tie_gradients,
)

MIN_INPUT_SIZE = 32


class HierarchicalBackbone(BaseModule):
    """Base of the backbones that return stride 4/8/16/32 maps.

    A subclass sets the class attributes below, resolves its settings with
    ``self.settings``, builds only the stages that ``out_indices`` needs (so no
    parameter stays without a gradient), sets ``out_channels``, ends its
    constructor with :meth:`freeze_stages`, and implements
    :meth:`stage_modules`, :meth:`layer_id`, :meth:`convert_official` and
    :meth:`forward_maps`.

    Args:
        arch (str | dict): Name of a variant (see ``arch_zoo`` and
            ``arch_aliases``) or a dict with the same keys as an entry of
            ``arch_zoo``.
        out_indices (Sequence[int]): Which of the four maps to return, in
            ascending order. Stages beyond the last one are not built.
            Defaults to (0, 1, 2, 3).
        output_stride (int): Largest stride of the maps: 32, or, for
            segmentation heads that ask for dilated backbones, 16 or 8. Later
            stages keep the size of their input and are dilated instead; the
            weights are the same. Defaults to 32.
        frozen_stages (int): Stages whose parameters get no gradient and
            whose modules stay in eval mode: -1 none, 0 the stem, k the stem
            and stages 1..k. Defaults to -1.
        norm_eval (bool): Keep BatchNorm layers in eval mode during training.
            Defaults to False.
        with_cp (bool): Recompute each block in the backward pass instead of
            keeping its activations. Loss and gradients stay the same.
            Defaults to False.
        attn_impl (str): One of ``attn_impls``. 'eager' is the readable
            reference, 'auto' the fastest that equals it within rounding.
            Defaults to 'auto'.
        compile (bool | dict): Compile the backbone, and nothing else of a
            model, at its first forward pass: True, or arguments of
            :func:`torch.compile` such as ``dict(mode='max-autotune')``.
            Sizes are dynamic unless the dict says otherwise, so that images
            of several sizes share a graph. Needs a C++ compiler.
            Defaults to False.
        init_cfg (dict | list[dict], optional): Initialization. A
            ``dict(type='Pretrained', checkpoint=PATH)`` reads official or
            mmhier weights, reports the matches and raises ValueError below
            ``min_matched`` (a key of the dict, defaults to 0.95) of the
            parameters. Defaults to None, the authors' initialization.

    Raises:
        ValueError: If an argument is not one of its allowed values.
    """

    arch_zoo: dict[str, dict] = {}
    arch_aliases: dict[str, str] = {}
    attn_impls: tuple[str, ...] = ('auto', 'sdpa', 'eager')
    default_init_cfg: dict | list[dict] | None = None
    # Prefixes of parameters that the authors' checkpoints never hold.
    new_parameters: tuple[str, ...] = ()
    all_strides = (4, 8, 16, 32)
    output_strides: tuple[int, ...] = (8, 16, 32)

    out_channels: tuple[int, ...]

    def __init__(self,
                 arch: str | dict,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 output_stride: int = 32,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 with_cp: bool = False,
                 attn_impl: str = 'auto',
                 compile: bool | dict = False,
                 init_cfg: dict | list[dict] | None = None):
        if isinstance(init_cfg, dict):
            init_cfg = [init_cfg]
        self.pretrained_cfg = None
        for cfg in init_cfg or ():
            if cfg['type'] == 'Pretrained':
                self.pretrained_cfg = cfg
        initializers: dict | list[dict] | None = [
            cfg for cfg in init_cfg or () if cfg is not self.pretrained_cfg
        ]
        if not initializers:
            initializers = deepcopy(self.default_init_cfg)
        super().__init__(initializers)

        self.settings = self.resolve_arch(arch)
        num_outputs = len(self.all_strides)
        out_indices = tuple(out_indices)
        if (not out_indices or list(out_indices) != sorted(set(out_indices))
                or not set(out_indices) <= set(range(num_outputs))):
            raise MMHierError(
                f'out_indices={out_indices} of {type(self).__name__}: expected'
                ' ascending, distinct numbers from 0 to '
                f'{num_outputs - 1}')
        if output_stride not in self.output_strides:
            raise MMHierError(
                f'output_stride={output_stride} of {type(self).__name__}: '
                f'expected one of {", ".join(map(str, self.output_strides))}')
        if frozen_stages not in range(-1, num_outputs + 1):
            raise MMHierError(
                f'frozen_stages={frozen_stages} of {type(self).__name__}: '
                f'expected -1 (none), 0 (stem) or 1 to {num_outputs}')
        if attn_impl not in self.attn_impls:
            raise MMHierError(
                f'attn_impl={attn_impl!r} of {type(self).__name__}: expected '
                f'one of {", ".join(map(repr, self.attn_impls))}')
        if not isinstance(compile, (bool, dict)):
            raise MMHierError(
                f'compile={compile!r} of {type(self).__name__}: expected True,'
                ' False or a dict of arguments of torch.compile')
        self.compile_cfg = {} if compile is True else compile
        self.out_indices = out_indices
        self.output_stride = output_stride
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.attn_impl = attn_impl

    @property
    def strides(self) -> tuple[int, ...]:
        """Output stride in input pixels, one per entry of out_indices."""
        return tuple(self.stage_stride(i) for i in self.out_indices)

    def stage_stride(self, stage: int) -> int:
        """Stride in input pixels of the map of stage 0 to 3."""
        return min(self.all_strides[stage], self.output_stride)

    def stage_step(self, stage: int) -> int:
        """Stride of the downsampling before stage 1 to 3."""
        return self.stage_stride(stage) // self.stage_stride(stage - 1)

    def stage_dilation(self, stage: int) -> int:
        """Dilation of stage 0 to 3; 1 unless output_stride keeps its map
        larger."""
        return self.all_strides[stage] // self.stage_stride(stage)

    @classmethod
    def resolve_arch(cls, arch: str | dict) -> dict:
        """Settings of a variant by name, or a checked dict of settings."""
        name = cls.__name__
        if isinstance(arch, str):
            key = cls.arch_aliases.get(arch.lower(), arch.lower())
            if key not in cls.arch_zoo:
                known = [*cls.arch_zoo, *cls.arch_aliases]
                raise MMHierError(f'unknown arch {arch!r} of {name}: expected '
                                  f'one of {", ".join(known)}, or a dict')
            return deepcopy(cls.arch_zoo[key])
        if not isinstance(arch, dict):
            raise MMHierError(f'arch of {name} must be a name or a dict, not '
                              f'{type(arch).__name__}')
        expected = set(next(iter(cls.arch_zoo.values())))
        missing, unknown = expected - set(arch), set(arch) - expected
        if missing or unknown:
            raise MMHierError(f'wrong keys in the arch dict of {name}: '
                              f'missing {sorted(missing) or "none"}, unknown '
                              f'{sorted(unknown) or "none"}; expected exactly '
                              f'{sorted(expected)}')
        return deepcopy(dict(arch))

    @abstractmethod
    def stage_modules(self, stage: int) -> list[nn.Module]:
        """Modules of the stem (0) or of stage 1..4, those not built left out.

        Parameters that belong to a stage but to no module of it are named by
        :meth:`stage_parameters`.
        """

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        """Parameters of a stage that the backbone itself holds."""
        return []

    @abstractmethod
    def layer_id(self, name: str) -> int:
        """Depth of the parameter `name`: 0 stem, 1.. blocks, in order."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Number of blocks that were built."""

    def get_layer_depth(self,
                        param_name: str,
                        prefix: str = '') -> tuple[int, int]:
        """Layer-wise depth, as mmpretrain's layer-decay constructor asks.

        Args:
            param_name (str): Name of a parameter of the whole model.
            prefix (str): Prefix of the backbone's parameters in the model.
                Defaults to ''.

        Returns:
            tuple[int, int]: Depth (0 the stem, ``num_layers - 1`` whatever
            follows the backbone) and ``num_layers``.
        """
        num_layers = self.num_blocks + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        return self.layer_id(param_name[len(prefix):]), num_layers

    @classmethod
    @abstractmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Rename an official state dict of this family.

        Args:
            state_dict (dict): Names of the authors' code, unwrapped.

        Returns:
            dict | None: The same weights named as in an mmpretrain
            classifier ('backbone.*', 'head.*'), without entries that this
            family never uses; None if the names are not this family's.
        """

    @classmethod
    def official_arguments(cls, state_dict: dict[str, Tensor]) -> dict:
        """Arguments beyond ``arch`` that official weights were made with.

        Args:
            state_dict (dict): Weights named as a backbone's own.

        Returns:
            dict: Those that show in names and shapes.
        """
        return {}

    def fit_state_dict(self, state_dict: dict[str, Tensor]) -> list[str]:
        """Resize, in place, entries whose size depends on the input size.

        Args:
            state_dict (dict): Weights named as this backbone's own.

        Returns:
            list[str]: Names of the entries that were resized.
        """
        return []

    def init_weights(self) -> None:
        """Initialize as the authors did, then load pretrained weights."""
        super().init_weights()
        if self.pretrained_cfg is not None:
            cfg = dict(self.pretrained_cfg)
            cfg.pop('type')
            cfg.pop('_scope_', None)
            load_backbone_weights(self, cfg.pop('checkpoint'), **cfg)

    @abstractmethod
    def forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps; images are validated."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images.

        Args:
            x (Tensor): (B, 3, H, W), H and W at least 32.

        Returns:
            tuple[Tensor]: Contiguous (B, out_channels[i],
            ceil(H / strides[i]), ceil(W / strides[i])).

        Raises:
            ValueError: If x has another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise MMHierError(f'{type(self).__name__} expects images of shape '
                              f'(B, 3, H, W), not {tuple(x.shape)}')
        if x.shape[2] < MIN_INPUT_SIZE or x.shape[3] < MIN_INPUT_SIZE:
            raise MMHierError(
                f'{type(self).__name__} expects images of at least '
                f'{MIN_INPUT_SIZE}x{MIN_INPUT_SIZE} pixels, not '
                f'{x.shape[2]}x{x.shape[3]}')
        if self.compile_cfg is not False:
            maps = call_compiled(
                type(self).forward_maps, self, x, **self.compile_cfg)
        else:
            with any_size(), shared_masks():
                maps = self.forward_maps(x)
        return tie_gradients(maps) if self.training else maps

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Call `block`, recomputing it in the backward pass if with_cp.

        BatchNorm statistics are updated by the first pass only.
        """
        if self.with_cp and self.training:
            return recompute_block(block, *args)
        return call_block(block, *args)

    def freeze_stages(self) -> None:
        """Put the frozen stages into eval mode and stop their gradients."""
        for stage in range(self.frozen_stages + 1):
            for module in self.stage_modules(stage):
                module.eval()
                module.requires_grad_(False)
            for parameter in self.stage_parameters(stage):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> 'HierarchicalBackbone':
        """Set the mode; frozen stages and, if norm_eval, BN stay in eval."""
        super().train(mode)
        self.freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
