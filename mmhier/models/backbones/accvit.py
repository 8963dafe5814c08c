"""ACC-ViT, "Atrous Convolution's Comeback in Vision Transformers".

Papers: arXiv 2403.04200; workshop version, "Fusion of Regional and Sparse
Attention in Vision Transformers", arXiv 2406.08859.

The authors published neither code nor weights: this is a reconstruction, and
:class:`ACCViT` lists its sources and assumptions.

Maps are channels-last in memory throughout, so that convolutions, BatchNorm
and attention over windows pass them on without copies.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from ..layers import (
    BranchGate,
    DilatedDepthwiseConv,
    Linear,
    Mlp,
    attend,
    merge_windows,
    partition_windows,
    sequence,
    split_heads,
    window_mask,
    window_position_bias,
)
from .base import HierarchicalBackbone

WINDOW_SIZE = 7
CONV_DILATIONS = (1, 2, 3)
EXPANSION = 4


def build_norm(norm_cfg: dict, num_channels: int) -> nn.Module:
    """Norm layer of a config, BatchNorm with MaxViT's constants if unset."""
    norm = build_norm_layer({'eps': 1e-3, **norm_cfg}, num_channels)[1]
    if isinstance(norm, _BatchNorm) and 'momentum' not in norm_cfg:
        norm.momentum = 0.01
    return norm


class ConvNorm(nn.Sequential):
    """Convolution and norm.

    Args:
        conv (nn.Conv2d): The convolution.
        norm_cfg (dict): Of the norm.
    """

    def __init__(self, conv: nn.Conv2d, norm_cfg: dict):
        super().__init__(conv, build_norm(norm_cfg, conv.out_channels))


class AveragePool(nn.Module):
    """Mean of 3x3 cells; the zeros around the map count.

    They count in the depthwise convolutions beside it as well, and in
    torchvision's MaxViT. A convolution, unlike avg_pool2d, does not tie a
    compiled graph to odd or even sizes.

    Args:
        stride (int): Of the pooling.
        dilation (int): Distance of neighbouring pixels of a cell.
    """

    def __init__(self, stride: int, dilation: int):
        super().__init__()
        self.stride = stride
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        channels = x.shape[1]
        kernel = x.new_full((channels, 1, 3, 3), 1 / 9)
        return F.conv2d(x, kernel, None, self.stride, self.dilation,
                        self.dilation, channels)


class SqueezeExcite(nn.Module):
    """Scales of channels from a bottleneck of their means.

    Args:
        channels (int): Channels C of the map.
        squeeze_channels (int): Width of the bottleneck.
    """

    def __init__(self, channels: int, squeeze_channels: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze_channels, 1)
        self.excite = nn.Conv2d(squeeze_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1), between 0 and 1."""
        mean = x.mean((2, 3), keepdim=True)
        return self.excite(F.silu(self.squeeze(mean))).sigmoid()


class AtrousInvertedResidual(nn.Module):
    """Expand, three gated depthwise convolutions, project, add, normalize.

    Args:
        in_channels (int): Channels in.
        out_channels (int): Channels out; the middle is four times as wide.
        stride (int): 1, or 2 to halve the map, rounding up.
        drop_path_rate (float): Stochastic depth.
        norm_cfg (dict): Of the BatchNorm layers.
        attn_impl (str): See :class:`BranchGate`.
        dilation (int): Factor of the dilations of the convolutions.
            Defaults to 1.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 stride: int,
                 drop_path_rate: float,
                 norm_cfg: dict,
                 attn_impl: str,
                 dilation: int = 1):
        super().__init__()
        hidden = EXPANSION * out_channels
        self.stride = stride
        # Tools that fuse a BatchNorm with the convolution registered before
        # it must not find one before `post_norm`, which follows the sum.
        self.pre_norm = build_norm(norm_cfg, in_channels)
        self.post_norm = build_norm(norm_cfg, out_channels)
        self.expand = nn.Sequential(
            ConvNorm(nn.Conv2d(in_channels, hidden, 1, bias=False), norm_cfg),
            nn.GELU())
        self.branches = nn.ModuleList([
            nn.Sequential(
                ConvNorm(
                    DilatedDepthwiseConv(hidden, stride, rate * dilation),
                    norm_cfg), nn.GELU()) for rate in CONV_DILATIONS
        ])
        self.squeeze_excites = nn.ModuleList(
            [SqueezeExcite(hidden, out_channels // 4) for _ in CONV_DILATIONS])
        self.gate = BranchGate(hidden, len(CONV_DILATIONS), attn_impl)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.drop_path = DropPath(drop_path_rate)
        self.shortcut = nn.Sequential(
            AveragePool(stride, dilation),
            nn.Conv2d(in_channels, out_channels, 1)
        ) if stride > 1 or in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        shortcut = self.shortcut(x)
        x = sequence(x, self.pre_norm, self.expand)
        branches = [sequence(x, branch) for branch in self.branches]
        scales = [se(y) for se, y in zip(self.squeeze_excites, branches)]
        # A copy, if strided, lets go of the expanded map.
        x = x.permute(0, 2, 3, 1)[:, ::self.stride, ::self.stride].contiguous()
        x = self.gate(x, [y.permute(0, 2, 3, 1) for y in branches],
                      [y.permute(0, 2, 3, 1) for y in scales])
        x = self.project(x.permute(0, 3, 1, 2))
        return self.post_norm(shortcut + self.drop_path(x))


class AtrousBranch(nn.Module):
    """LayerNorm and self-attention in dilated windows.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        dilation (int): Distance of neighbouring tokens of a window.
        attn_impl (str): See :func:`mmhier.models.layers.attend`.
    """

    def __init__(self, embed_dims: int, num_heads: int, dilation: int,
                 attn_impl: str):
        super().__init__()
        self.num_heads = num_heads
        self.dilation = dilation
        self.attn_impl = attn_impl
        self.norm = nn.LayerNorm(embed_dims)
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * WINDOW_SIZE - 1)**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1:3]
        layout = WINDOW_SIZE, self.dilation
        qkv = sequence(x, self.norm, self.qkv)
        windows = partition_windows(qkv, *layout)
        q, k, v = split_heads(windows, 3, self.num_heads)
        bias = window_position_bias(self.relative_position_bias_table,
                                    WINDOW_SIZE)
        mask = window_mask(qkv, *layout)
        out = attend(q, k, v, bias, mask, self.attn_impl)
        out = out.transpose(1, 2).flatten(2)
        return self.proj(merge_windows(out, height, width, *layout))


class AtrousAttention(nn.Module):
    """Gated sum of self-attention over windows of several dilations.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        dilations (Sequence[int]): One branch each; a single one has no gate.
        attn_impl (str): See :func:`mmhier.models.layers.attend`.
    """

    def __init__(self, embed_dims: int, num_heads: int,
                 dilations: Sequence[int], attn_impl: str):
        super().__init__()
        self.branches = nn.ModuleList([
            AtrousBranch(embed_dims, num_heads, dilation, attn_impl)
            for dilation in dilations
        ])
        if len(dilations) > 1:
            self.gate = BranchGate(embed_dims, len(dilations), attn_impl)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), without the residual."""
        branches = [branch(x) for branch in self.branches]
        return self.gate(x, branches) if len(branches) > 1 else branches[0]


class Block(nn.Module):
    """An atrous inverted residual, then atrous attention and an MLP."""

    def __init__(self, in_channels: int, embed_dims: int, stride: int,
                 conv_dilation: int, num_heads: int, dilations: Sequence[int],
                 topology: str, drop_path_rate: float, norm_cfg: dict,
                 attn_impl: str):
        super().__init__()
        self.topology = topology
        self.conv = AtrousInvertedResidual(in_channels, embed_dims, stride,
                                           drop_path_rate, norm_cfg, attn_impl,
                                           conv_dilation)
        self.attn = AtrousAttention(embed_dims, num_heads, dilations, attn_impl)
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = Mlp(embed_dims, EXPANSION * embed_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, embed_dims, H', W')."""
        x = self.conv(x).permute(0, 2, 3, 1)
        if self.topology == 'figure':
            x = x + self.drop_path(sequence(self.attn(x), self.norm, self.mlp))
        else:
            # The gates sum to one, so that a residual of every branch
            # amounts to this single one.
            x = x + self.drop_path(self.attn(x))
            x = x + self.drop_path(sequence(x, self.norm, self.mlp))
        return x.permute(0, 3, 1, 2)


def _arch(embed_dims: Sequence[int],
          depths: Sequence[int],
          stem_channels: int = 64,
          head_dim: int = 32) -> dict:
    return dict(
        embed_dims=embed_dims,
        depths=depths,
        stem_channels=stem_channels,
        head_dim=head_dim,
        dilations=((1, 2, 4, 8), (1, 2, 4), (1, 2), (1, )))


@MODELS.register_module()
class ACCViT(HierarchicalBackbone):
    """ACC-ViT backbone, a reconstruction: no official code or weights exist.

    Accuracies of the papers cannot be expected of it before they have been
    measured.

    Stated by the papers, in the text or in the architecture figure:

    - four stages at strides 4/8/16/32; each repeat of a stage is an atrous
      inverted residual block, then an atrous attention block;
    - the attention block runs windowed self-attention with relative position
      bias in parallel over dilations 1, 2, 4, 8 in stage 1, 1, 2, 4 in stage
      2, 1, 2 in stage 3 and 1 in stage 4, fuses the branches by gates
      (softmax over branches of one linear projection of the block's input)
      and ends in one MLP that the branches share;
    - the inverted residual block expands, runs three depthwise 3x3
      convolutions of dilation 1, 2, 3, each with its own squeeze-excitation,
      fuses them by gates, projects, adds its input and normalizes the sum.

    Inferred, since no other configuration was found to reproduce the
    published parameter and FLOP counts: depths, widths, 7x7 windows, heads of
    32 channels (16 in femto and pico), a LayerNorm, weights and a bias table
    per branch, gates per channel, and MaxViT's layout (as in torchvision)
    where the figure shows none: stem, biases, norms, shortcut of a striding
    block, squeeze width, classifier.

    Assumed, since no count depends on it:

    - A1 the residuals of the attention block, see `topology`;
    - A2 gates see the block's input (in an inverted residual the expanded
      map, in a striding one every second pixel of it);
    - A3 GELU, and SiLU within squeeze-excitation;
    - A4 logits are scaled by ``head_dim ** -0.5``;
    - A5 the shortcut of a striding block averages 3x3 cells, stride 2;
    - A6 squeeze-excitation follows the depthwise convolution's norm and GELU;
    - A7 initialization and norm constants of MaxViT, linear drop path;
    - A8 where 7x7 windows do not tile a map, each branch pads it on the right
      and bottom and masks the padding as keys, which changes no output;
    - A9 femto has the depths and head width of pico.

    Squeeze-excitation averages over whole maps, and the windows of the largest
    dilation span 224 pixels of the image: padding an image, as batching does,
    changes the features of its real part everywhere, most near the padding.
    With random weights, padding 448x448 noise to 480x512 moves each map by at
    most 4 % of its standard deviation on average, 1 % in the farthest quarter.
    The outputs carry no norm besides those of the blocks.

    Args:
        arch (str | dict): 'femto', 'pico', 'nano', 'tiny', 'small', 'base',
            or a dict with ``embed_dims``, ``depths`` and ``dilations`` (of
            the attention branches), four entries each, ``stem_channels`` and
            ``head_dim``. Defaults to 'tiny'.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. The authors' rates are unknown.
            Defaults to 0.
        topology (str): Residuals of the attention block. With x its input
            and a(x) the gated sum of the branches, 'gated_residual' is
            y = x + a(x), y + MLP(LN(y)); 'figure', after the papers' figure,
            is x + MLP(LN(a(x))). Defaults to 'gated_residual'.
        norm_cfg (dict): Of the BatchNorm layers; eps and momentum default to
            MaxViT's 1e-3 and 0.01. Defaults to ``dict(type='BN')``.
        **kwargs: ``out_indices``, ``output_stride``, ``frozen_stages``,
            ``norm_eval``, ``with_cp``, ``attn_impl`` ('auto', 'sdpa',
            'eager'), ``compile`` and ``init_cfg`` of
            :class:`HierarchicalBackbone`.

    Raises:
        ValueError: If an argument is not one of its allowed values, or, in
            ``forward``, if an image is smaller than 32x32.

    Example:
        >>> backbone = ACCViT('tiny').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    arch_zoo = {
        'femto': _arch((32, 64, 128, 256), (1, 2, 4, 1), 32, 16),
        'pico': _arch((48, 96, 192, 384), (1, 2, 4, 1), 48, 16),
        'nano': _arch((64, 128, 256, 512), (1, 2, 4, 1)),
        'tiny': _arch((64, 128, 256, 512), (2, 3, 6, 2)),
        'small': _arch((96, 192, 384, 768), (2, 3, 6, 2)),
        'base': _arch((96, 192, 384, 768), (4, 6, 14, 2)),
    }
    default_init_cfg = dict(
        type='Normal', layer=['Conv2d', 'Linear'], std=0.02, bias=0)
    topologies = ('gated_residual', 'figure')

    def __init__(self,
                 arch: str | dict = 'tiny',
                 drop_path_rate: float = 0.,
                 topology: str = 'gated_residual',
                 norm_cfg: dict | None = None,
                 **kwargs: Any):
        super().__init__(arch, **kwargs)
        settings = self.settings
        dims = settings['embed_dims']
        head_dim = settings['head_dim']
        for name in ('embed_dims', 'depths', 'dilations'):
            if len(settings[name]) != 4:
                raise MMHierError(f'{name}={settings[name]} in the arch of '
                                  'ACCViT: expected four entries')
        if any(c % head_dim or c % 4 for c in dims):
            raise MMHierError(
                f'embed_dims={dims} in the arch of ACCViT: expected multiples '
                f'of head_dim={head_dim} and of 4')
        if topology not in self.topologies:
            raise MMHierError(
                f'topology={topology!r} of ACCViT: expected one of '
                f'{", ".join(map(repr, self.topologies))}')
        norm_cfg = dict(type='BN') if norm_cfg is None else norm_cfg
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        depths = settings['depths']
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()

        stem = settings['stem_channels']
        self.stem = nn.Sequential(
            ConvNorm(
                nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
                norm_cfg), nn.GELU(), nn.Conv2d(stem, stem, 3, padding=1))
        self.stages = nn.ModuleList()
        channels = stem
        for i in range(self.out_indices[-1] + 1):
            blocks = nn.ModuleList()
            dilation = self.stage_dilation(i)
            stride = self.stage_step(i) if i else 2
            for j in range(depths[i]):
                blocks.append(
                    Block(
                        channels, dims[i], 1 if j else stride,
                        dilation if j else self.stage_dilation(max(i - 1, 0)),
                        dims[i] // head_dim,
                        [rate * dilation
                         for rate in settings['dilations'][i]], topology,
                        rates[sum(depths[:i]) + j], norm_cfg, self.attn_impl))
                channels = dims[i]
            self.stages.append(blocks)
        self.freeze_stages()

    def forward_maps(self, x: Tensor) -> tuple:
        """(B, 3, H, W) -> tuple of (B, out_channels[i], H_i, W_i)."""
        outs = []
        x = x.contiguous(memory_format=torch.channels_last)
        x = sequence(x, self.stem)
        for i, blocks in enumerate(self.stages):
            for block in blocks:
                x = self.run_block(block, x)
            if i in self.out_indices:
                outs.append(x.contiguous())
        return tuple(outs)

    def stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.stem]
        return [self.stages[stage - 1]] if stage <= len(self.stages) else []

    @property
    def num_blocks(self) -> int:
        return sum(map(len, self.stages))

    def layer_id(self, name: str) -> int:
        parts = name.split('.')
        if parts[0] == 'stem':
            return 0
        stage, block = int(parts[1]), int(parts[2])
        return sum(len(self.stages[i]) for i in range(stage)) + block + 1

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """None: the authors published no weights."""
        return None
