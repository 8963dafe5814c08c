"""LITv2, "Fast Vision Transformers with HiLo Attention".

Paper: arXiv 2205.13213, NeurIPS 2022.
Authors' code: github.com/ziplab/LITv2 (Apache-2.0), a classifier, a detection
and a segmentation backbone. They compute the same numbers wherever the
classifier runs; this file follows the dense two.

Differences from the authors' code:
- maps of odd height or width are padded to even ones before they are merged,
  so that every output has ceil(size / stride) rows and columns; the authors
  drop the last row or column. `ceil_mode=False` does as they do.
- the default `alpha` is that of every published model, 0.9, not 0.5.
- Lo-Fi queries of padded positions, which the authors compute and drop, are
  not computed.
- `frozen_stages=k` freezes k stages; the authors' attempt raises an error.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from ..layers import (
    DeformableMerging,
    DepthwiseConv,
    Linear,
    PatchEmbed,
    attend,
    by_rows,
    merge_windows,
    partition_windows,
    sequence,
    split_heads,
)
from .base import HierarchicalBackbone


class DepthwiseMlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear.

    The convolution is all that tells a block about positions.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, dilation: int = 1):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.dwconv = DepthwiseConv(
            hidden_dims, 3, bias=True, dilation=dilation)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return sequence(x, self.fc1, self.dwconv, self.act, self.fc2)


def average_windows(x: Tensor, size: int) -> Tensor:
    """Mean of each size x size window of (B, H, W, C), zeros filling up the
    last ones."""
    height, width = x.shape[1:3]
    bottom = -(-height // size) * size - height
    right = -(-width // size) * size - width
    x = F.pad(x, (0, 0, 0, right, 0, bottom))
    return F.avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


class HiLoAttention(nn.Module):
    """High and low frequency attention (paper, section 4).

    Some heads (Hi-Fi) attend within windows, the others (Lo-Fi) to the
    average of each window. Zeros fill the last windows up, and count: they
    are keys and values of Hi-Fi, whose projections have a bias, and part of
    Lo-Fi's averages. The published weights were trained with them.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        alpha (float): Share of Lo-Fi heads, rounded down to whole heads.
        window_size (int): Window side in tokens; 1 for plain attention of all
            heads, whatever `alpha`.
        attn_impl (str): See :func:`mmhier.models.layers.attend`.
        dilation (int): Distance of neighbouring tokens of a window; scales
            the side of the averaged windows too. Defaults to 1.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 alpha: float,
                 window_size: int,
                 attn_impl: str,
                 dilation: int = 1):
        super().__init__()
        self.window_size = window_size
        self.dilation = 1 if window_size == 1 else dilation
        self.attn_impl = attn_impl
        self.num_heads = num_heads
        self.head_dim = embed_dims // num_heads
        self.low_heads = int(num_heads * alpha)
        if window_size == 1:
            self.low_heads = num_heads
        self.high_heads = num_heads - self.low_heads
        low_dims = self.low_heads * self.head_dim
        high_dims = self.high_heads * self.head_dim
        if self.high_heads:
            self.h_qkv = Linear(embed_dims, 3 * high_dims)
            self.h_proj = Linear(high_dims, high_dims)
        if self.low_heads:
            self.l_q = Linear(embed_dims, low_dims)
            self.l_kv = Linear(embed_dims, 2 * low_dims)
            self.l_proj = Linear(low_dims, low_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), Hi-Fi channels first."""
        size = self.window_size * self.dilation
        outs = []
        if self.high_heads:
            outs.append(by_rows(self.attend_windows, x, every=size))
        if self.low_heads:
            kv = self.l_kv(average_windows(x, size)).flatten(1, 2)
            outs.append(by_rows(self.attend_pooled, x, kv))
        return torch.cat(outs, -1)

    def _load_from_state_dict(self, state_dict: dict, prefix: str,
                              local_metadata: dict, strict: bool,
                              missing_keys: list[str],
                              unexpected_keys: list[str],
                              error_msgs: list[str]) -> None:
        low_heads = self.low_heads
        if prefix + 'l_q.weight' in state_dict:
            low_dims = len(state_dict[prefix + 'l_q.weight'])
            low_heads = low_dims // self.head_dim
        elif prefix + 'h_qkv.weight' in state_dict:
            low_heads = 0
        if low_heads != self.low_heads:
            error_msgs.append(
                f'{prefix[:-1]} has {low_heads} Lo-Fi heads of '
                f'{self.num_heads}, this LITv2 has {self.low_heads}: choose an '
                f'alpha with int({self.num_heads} * alpha) == {low_heads}')
        super()._load_from_state_dict(state_dict, prefix, local_metadata,
                                      strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def attend_windows(self, x: Tensor) -> Tensor:
        """Hi-Fi: self-attention within each window of (B, H, W, C)."""
        height, width = x.shape[1:3]
        windows = partition_windows(x, self.window_size, self.dilation)
        q, k, v = split_heads(self.h_qkv(windows), 3, self.high_heads)
        out = attend(q, k, v, attn_impl=self.attn_impl)
        out = self.h_proj(out.transpose(1, 2).flatten(2))
        return merge_windows(out, height, width, self.window_size,
                             self.dilation)

    def attend_pooled(self, x: Tensor, kv: Tensor) -> Tensor:
        """Lo-Fi: all of (B, H, W, C) attend to `kv` (B, M, 2 * low_dims)."""
        q, = split_heads(self.l_q(x).flatten(1, 2), 1, self.low_heads)
        k, v = split_heads(kv, 2, self.low_heads)
        out = attend(q, k, v, attn_impl=self.attn_impl)
        return self.l_proj(out.transpose(1, 2).reshape(*x.shape[:3], -1))


class Block(nn.Module):
    """Attention, then an MLP, both pre-norm and residual; or the MLP alone.

    Args:
        embed_dims (int): Channels C.
        dilation (int): Of the MLP's convolution.
        drop_path_rate (float): Stochastic depth.
        attn (nn.Module, optional): :class:`HiLoAttention`, None in stages 1
            and 2.
    """

    def __init__(self, embed_dims: int, dilation: int, drop_path_rate: float,
                 attn: HiLoAttention | None):
        super().__init__()
        self.attn = attn
        if attn is not None:
            self.norm1 = nn.LayerNorm(embed_dims)
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = DepthwiseMlp(embed_dims, 4 * embed_dims, dilation)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.attn is not None:
            x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks and the downsampling that follows them, None in the last."""

    def __init__(self, blocks: list[Block],
                 downsample: DeformableMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


@MODELS.register_module()
class LITv2(HierarchicalBackbone):
    """LITv2 backbone: MLP blocks, HiLo attention in stage 3, full in stage 4.

    Args:
        arch (str | dict): 'small', 'medium', 'base', or a dict with
            ``embed_dims`` and ``depths``, four numbers each, and
            ``num_heads``, two numbers for stages 3 and 4.
            Defaults to 'small'.
        alpha (float): Share of heads that attend to the pooled map (Lo-Fi)
            where windows are larger than 1; heads are whole, rounded down.
            Published: 0.9; for small at ImageNet also 0, 0.2, 0.4, 0.5, 0.7
            and 1. Defaults to 0.9.
        window_size (int | Sequence[int]): Side of the windows of stage 3, or
            four numbers as in the authors' configs: 0 for stages 1 and 2,
            then stages 3 and 4, 1 for full attention. Published: 2 and, only
            for detection, 4, which is faster and up to 0.5 AP lower. Weights
            do not tell which they were trained with. Defaults to 2.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Published for small, medium and
            base: 0.2, 0.3, 0.5 at ImageNet, 0.2, 0.2, 0.3 elsewhere.
            Defaults to 0.
        out_indices (Sequence[int], optional): See
            :class:`HierarchicalBackbone`. Defaults to None: (3, ) if
            ``out_type`` asks for a vector, else (0, 1, 2, 3).
        out_type (str): 'featmap' for maps or 'avg_featmap' for the mean of
            the last stage's normed tokens, (B, C), as the classifiers have
            it. Defaults to 'featmap'.
        out_norms (Sequence[int]): Which of the four maps, if returned, carry
            a LayerNorm: (1, 2, 3) in the published detectors, (0, 1, 2, 3) in
            the segmentors. Defaults to (1, 2, 3).
        ceil_mode (bool): Pad maps of odd height or width with zeros before
            they are merged, which gives ceil(size / stride) rows and columns.
            False drops the last row or column as the authors do: floor(n / 2)
            of n, and other numbers near the border. Images whose sides are
            multiples of 32 give the same either way. Defaults to True.
        norm_cfg (dict): Of the BatchNorm in the downsampling.
            Defaults to ``dict(type='BN')``.
        **kwargs: ``output_stride``, ``frozen_stages`` (the downsampling
            belongs to the stage before it), ``norm_eval``, ``with_cp``,
            ``attn_impl`` ('auto', 'sdpa', 'eager'), ``compile`` and
            ``init_cfg`` of :class:`HierarchicalBackbone`.

    Raises:
        ValueError: If an argument is not one of its allowed values, or, in
            ``forward``, if an image is smaller than 32x32.

    Example:
        >>> backbone = LITv2('small').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    arch_zoo = {
        'small':
        dict(
            embed_dims=(96, 192, 384, 768),
            depths=(2, 2, 6, 2),
            num_heads=(12, 24)),
        'medium':
        dict(
            embed_dims=(96, 192, 384, 768),
            depths=(2, 2, 18, 2),
            num_heads=(12, 24)),
        'base':
        dict(
            embed_dims=(128, 256, 512, 1024),
            depths=(2, 2, 18, 2),
            num_heads=(16, 32)),
    }
    arch_aliases = {'s': 'small', 'm': 'medium', 'b': 'base'}
    out_types = ('featmap', 'avg_featmap')
    # Released classifiers have no norms on the maps.
    new_parameters = ('norm0.', 'norm1.', 'norm2.', 'norm3.')
    # The other convolutions keep PyTorch's initialization, offsets start at
    # zero.
    default_init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0),
        dict(type='Constant', layer=['LayerNorm', '_BatchNorm'], val=1, bias=0),
        dict(type='Normal', layer='DepthwiseConv', std=(2 / 9)**0.5, bias=0),
    ]

    def __init__(self,
                 arch: str | dict = 'small',
                 alpha: float = 0.9,
                 window_size: int | Sequence[int] = 2,
                 drop_path_rate: float = 0.,
                 out_indices: Sequence[int] | None = None,
                 out_type: str = 'featmap',
                 out_norms: Sequence[int] = (1, 2, 3),
                 ceil_mode: bool = True,
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs: Any):
        if out_type not in self.out_types:
            raise MMHierError(f'out_type={out_type!r} of LITv2: expected one '
                              f'of {", ".join(map(repr, self.out_types))}')
        if out_indices is None:
            out_indices = range(4) if out_type == 'featmap' else (3, )
        super().__init__(arch, out_indices=out_indices, **kwargs)
        if out_type != 'featmap' and self.out_indices != (3, ):
            raise MMHierError(
                f'out_indices={self.out_indices} of LITv2: out_type='
                f'{out_type!r} returns the last stage alone, expected (3,)')
        if not set(out_norms) <= set(range(4)):
            raise MMHierError(f'out_norms={tuple(out_norms)} of LITv2: '
                              'expected numbers from 0 to 3')
        if not 0 <= alpha <= 1:
            raise MMHierError(
                f'alpha={alpha} of LITv2: expected a share from 0 to 1')
        self._check_settings()
        self.alpha = alpha
        self.window_sizes = self._resolve_window_size(window_size)
        self.out_type = out_type
        dims, depths = self.settings['embed_dims'], self.settings['depths']
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        # Not by torch: to learn its channels, a model is built without data.
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()

        self.patch_embed = PatchEmbed(dims[0])
        self.layers = nn.ModuleList()
        last = self.out_indices[-1]
        for i in range(last + 1):
            first = sum(depths[:i])
            blocks = [
                Block(dims[i], self.stage_dilation(i), rate, self._attention(i))
                for rate in rates[first:first + depths[i]]
            ]
            downsample = None
            if i < last:
                downsample = DeformableMerging(dims[i], dims[i + 1],
                                               norm_cfg, ceil_mode,
                                               self.stage_step(i + 1),
                                               self.stage_dilation(i))
            self.layers.append(Stage(blocks, downsample))
        if out_type == 'avg_featmap':
            self.norm = nn.LayerNorm(dims[-1])
        else:
            for i in self.out_indices:
                if i in out_norms:
                    self.add_module(f'norm{i}', nn.LayerNorm(dims[i]))
        self.freeze_stages()

    def _check_settings(self) -> None:
        settings = self.settings
        for name, length in dict(embed_dims=4, depths=4, num_heads=2).items():
            if len(settings[name]) != length:
                raise MMHierError(f'{name}={settings[name]} in the arch of '
                                  f'LITv2: expected {length} numbers')
        for dims, heads in zip(settings['embed_dims'][2:],
                               settings['num_heads']):
            if dims % heads:
                raise MMHierError(
                    f'num_heads={settings["num_heads"]} in the arch of LITv2: '
                    'expected divisors of the last two of embed_dims='
                    f'{settings["embed_dims"]}')

    @staticmethod
    def _resolve_window_size(
            window_size: int | Sequence[int]) -> tuple[int, ...]:
        """Window side of each stage, 0 without attention."""
        sizes = window_size
        if isinstance(window_size, int):
            sizes = (0, 0, window_size, 1)
        if (not isinstance(sizes, Sequence) or len(sizes) != 4
                or not all(isinstance(size, int) for size in sizes)
                or any(sizes[:2]) or min(sizes[2:]) < 1):
            raise MMHierError(
                f'window_size={window_size} of LITv2: expected the side of '
                'the windows of stage 3, or (0, 0, side of stage 3, side of '
                'stage 4), sides at least 1; published are 2 and 4, with full '
                'attention (1) in stage 4')
        return tuple(sizes)

    def _attention(self, stage: int) -> HiLoAttention | None:
        if stage < 2:
            return None
        return HiLoAttention(self.settings['embed_dims'][stage],
                             self.settings['num_heads'][stage - 2], self.alpha,
                             self.window_sizes[stage], self.attn_impl,
                             self.stage_dilation(stage))

    def forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> tuple of (B, out_channels[i], H_i, W_i).

        With out_type 'avg_featmap', a tuple of one (B, C).
        """
        outs = []
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = self.run_block(block, x)
            if i in self.out_indices and self.out_type == 'featmap':
                norm = getattr(self, f'norm{i}', nn.Identity())
                outs.append(norm(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        if self.out_type == 'avg_featmap':
            outs.append(self.norm(x).mean((1, 2)))
        return tuple(outs)

    def stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.patch_embed]
        if stage > len(self.layers):
            return []
        norms = [f'norm{stage - 1}'] + ['norm'] * (stage == 4)
        return [self.layers[stage - 1]
                ] + [getattr(self, n) for n in norms if hasattr(self, n)]

    @property
    def num_blocks(self) -> int:
        return sum(len(stage.blocks) for stage in self.layers)

    def layer_id(self, name: str) -> int:
        """Depth of `name`; norms of the outputs count as what follows."""
        parts = name.split('.')
        if parts[0] == 'patch_embed':
            return 0
        if parts[0].startswith('norm'):
            return self.num_blocks + 1
        stage, block = int(parts[1]), 0
        if parts[2] == 'blocks':
            block = int(parts[3])
        elif parts[2] == 'downsample':
            stage += 1
        before = sum(len(self.layers[i].blocks) for i in range(stage))
        return before + block + 1

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Rename weights of a released classifier or backbone."""
        renamed = {
            name.replace('.dwconv.dwconv.', '.dwconv.'): value
            for name, value in state_dict.items()
        }
        if 'layers.0.blocks.0.mlp.dwconv.weight' not in renamed:
            return None
        converted = {}
        for name, value in renamed.items():
            prefix = 'backbone.'
            if name.startswith('head.'):
                name, prefix = name.replace('head.', 'fc.'), 'head.'
            converted[prefix + name] = value
        return converted

    @classmethod
    def official_arguments(cls, state_dict: dict[str, Tensor]) -> dict:
        """``alpha`` of released weights; their window size does not show."""
        channels = len(state_dict['layers.2.blocks.0.norm1.weight'])
        queries = state_dict.get('layers.2.blocks.0.attn.l_q.weight', ())
        return dict(alpha=len(queries) / channels)
