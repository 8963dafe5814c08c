"""HAT-Net, "Vision Transformers with Hierarchical Attention".

Paper: arXiv 2106.03180, MIR 21(4):670-683, 2024.
Authors' code: github.com/yun-liu/HAT-Net (classification only, no licence;
this file is written from the paper and from the layout of its weights).

Differences from the authors' code:
- any input size: maps that the windows do not tile are padded inside the
  local attention alone, with the padding masked out as keys; the pooling of
  the global keys rounds up. At multiples of 224 nothing changes.
- the blocks' `proj_norm`, which the authors create and never use, is left out.
- tokens are channels-last throughout, 1x1 convolutions are linear layers over
  them; the weights keep the authors' names and shapes.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from ..layers import (
    Conv,
    DepthwiseConv,
    GlobalNorm,
    PointwiseConv,
    attend,
    average_cells,
    by_rows,
    merge_windows,
    partition_windows,
    sequence,
    split_heads,
    window_mask,
)
from .base import HierarchicalBackbone


class HierarchicalAttention(nn.Module):
    """Attention in local windows, then to a pooled map (paper, section 3).

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int): Window side in tokens; 1 for plain self-attention.
        ds_ratio (int): Side of the cells that are averaged into one global
            key and value.
        attn_impl (str): See :func:`mmhier.models.layers.attend`.
        dilation (int): Distance of neighbouring tokens of a window; scales
            the side of the cells too. Defaults to 1.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 grid_size: int,
                 ds_ratio: int,
                 attn_impl: str,
                 dilation: int = 1):
        super().__init__()
        self.num_heads = num_heads
        self.grid_size = grid_size
        self.ds_ratio = ds_ratio * dilation
        self.dilation = dilation
        self.attn_impl = attn_impl
        self.norm = GlobalNorm(embed_dims)
        self.qkv = PointwiseConv(embed_dims, 3 * embed_dims)
        self.proj = PointwiseConv(embed_dims, embed_dims)
        if grid_size > 1:
            self.grid_norm = GlobalNorm(embed_dims)
            self.ds_norm = GlobalNorm(embed_dims)
            self.q = PointwiseConv(embed_dims, embed_dims)
            self.kv = PointwiseConv(embed_dims, 2 * embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), without the residual."""
        u = self.norm(x)
        if self.grid_size == 1:
            return self.proj(self.attend_self(u.flatten(1, 2)).view_as(x))
        local = by_rows(
            self.attend_windows, u, every=self.grid_size * self.dilation)
        g = self.grid_norm(x + local)
        pooled = self.ds_norm(average_cells(g, self.ds_ratio))
        return by_rows(self.attend_pooled, g, self.kv(pooled.flatten(1, 2)))

    def attend_windows(self, u: Tensor) -> Tensor:
        """Self-attention within each window of (B, H, W, C)."""
        height, width = u.shape[1:3]
        layout = self.grid_size, self.dilation
        windows = self.attend_self(
            partition_windows(u, *layout), window_mask(u, *layout))
        return merge_windows(windows, height, width, *layout)

    def attend_self(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B', N, C) -> (B', N, C)."""
        q, k, v = split_heads(self.qkv(tokens), 3, self.num_heads)
        out = attend(q, k, v, mask=mask, attn_impl=self.attn_impl)
        return out.transpose(1, 2).flatten(2)

    def attend_pooled(self, g: Tensor, kv: Tensor) -> Tensor:
        """(B, H, W, C) attends to the pooled map's kv, (B, M, 2 * C)."""
        (q, ) = split_heads(self.q(g).flatten(1, 2), 1, self.num_heads)
        k, v = split_heads(kv, 2, self.num_heads)
        out = attend(q, k, v, attn_impl=self.attn_impl)
        return self.proj(g + out.transpose(1, 2).reshape(g.shape))


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; no norm in between.

    Args:
        embed_dims (int): Channels C in and out.
        expansion (int): Width of the middle over C.
        kernel_size (int): Of the depthwise convolution.
        dilation (int): Of the depthwise convolution.
    """

    def __init__(self, embed_dims: int, expansion: int, kernel_size: int,
                 dilation: int):
        super().__init__()
        hidden = embed_dims * expansion
        self.conv1 = nn.Sequential(
            GlobalNorm(embed_dims),
            PointwiseConv(embed_dims, hidden, bias=False), nn.SiLU())
        self.conv2 = nn.Sequential(
            DepthwiseConv(hidden, kernel_size, dilation=dilation), nn.SiLU())
        self.conv3 = nn.Sequential(
            PointwiseConv(hidden, embed_dims, bias=False),
            GlobalNorm(embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), without the residual."""
        return sequence(x, self.conv1, self.conv2, self.conv3)


class Block(nn.Module):
    """Hierarchical attention, then an inverted residual; both residual."""

    def __init__(self, embed_dims: int, num_heads: int, expansion: int,
                 kernel_size: int, grid_size: int, ds_ratio: int, dilation: int,
                 drop_path_rate: float, attn_impl: str):
        super().__init__()
        self.attn = HierarchicalAttention(embed_dims, num_heads, grid_size,
                                          ds_ratio, attn_impl, dilation)
        self.conv = InvertedResidual(embed_dims, expansion, kernel_size,
                                     dilation)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.conv(x))


class Downsample(nn.Module):
    """3x3 convolution, of stride 2 or dilated, then a norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int,
                 dilation: int):
        super().__init__()
        self.conv = Conv(in_channels, out_channels, 3, stride, dilation,
                         dilation)
        self.norm = GlobalNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def _arch(embed_dims: Sequence[int],
          depths: Sequence[int],
          head_dim: int,
          kernel_sizes: Sequence[int] = (3, 3, 3, 3)) -> dict:
    return dict(
        embed_dims=embed_dims,
        depths=depths,
        head_dim=head_dim,
        expansions=(8, 8, 4, 4),
        kernel_sizes=kernel_sizes,
        grid_sizes=(8, 7, 7, 1),
        ds_ratios=(8, 4, 2, 1))


@MODELS.register_module()
class HATNet(HierarchicalBackbone):
    """HAT-Net backbone.

    Its norms average over whole maps, so every output depends a little on
    every input pixel: padding an image, as batching does, changes the
    features of the real part (32 columns of zeros beside 224x224 noise: by
    0.09, 0.10, 0.14 and 0.19 of the maps' standard deviation, tiny, initial
    weights). The outputs carry no norm, as published.

    Args:
        arch (str | dict): 'tiny', 'small', 'medium', 'large', or a dict with
            ``embed_dims``, ``depths``, ``expansions``, ``kernel_sizes``
            (depthwise), ``grid_sizes`` (window side in tokens, 1 for plain
            attention) and ``ds_ratios`` (pooling of the global keys), four
            numbers each, and ``head_dim``. Defaults to 'tiny'.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. The paper's group uses 0.1 for tiny
            and small, 0.3 for medium and large. Defaults to 0.
        **kwargs: ``out_indices``, ``output_stride``, ``frozen_stages``,
            ``norm_eval``, ``with_cp``, ``attn_impl`` ('auto', 'sdpa',
            'eager'), ``compile`` and ``init_cfg`` of
            :class:`HierarchicalBackbone`.

    Raises:
        ValueError: If an argument is not one of its allowed values, or, in
            ``forward``, if an image is smaller than 32x32.

    Example:
        >>> backbone = HATNet('tiny').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 240, 4, 6), (1, 384, 2, 3)]
    """

    arch_zoo = {
        'tiny': _arch((48, 96, 240, 384), (2, 2, 6, 3), 48),
        'small': _arch((64, 128, 320, 512), (2, 3, 8, 3), 64),
        'medium': _arch((64, 128, 320, 512), (3, 6, 18, 3), 64, (5, 3, 5, 3)),
        'large': _arch((64, 128, 320, 640), (3, 8, 27, 3), 64),
    }
    default_init_cfg = [
        dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0),
        dict(type='Constant', layer='GroupNorm', val=1, bias=0),
    ]

    def __init__(self,
                 arch: str | dict = 'tiny',
                 drop_path_rate: float = 0.,
                 **kwargs: Any):
        super().__init__(arch, **kwargs)
        settings = self.settings
        dims = settings['embed_dims']
        head_dim = settings['head_dim']
        for name in set(settings) - {'head_dim'}:
            if len(settings[name]) != 4:
                raise MMHierError(f'{name}={settings[name]} in the arch of '
                                  'HATNet: expected four numbers')
        if any(c % head_dim for c in dims):
            raise MMHierError(f'embed_dims={dims} in the arch of HATNet: '
                              f'expected multiples of head_dim={head_dim}')
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        num_stages = self.out_indices[-1] + 1
        depths = settings['depths']
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()

        self.patch_embed = nn.Sequential(
            Conv(3, 16, 3, stride=2, padding=1), GlobalNorm(16), nn.SiLU(),
            Conv(16, dims[0], 3, stride=2, padding=1))
        self.blocks = nn.ModuleList()
        for i in range(num_stages):
            if i > 0:
                self.add_module(
                    f'ds{i + 1}',
                    Downsample(dims[i - 1], dims[i], self.stage_step(i),
                               self.stage_dilation(i - 1)))
            stage_rates = rates[sum(depths[:i]):sum(depths[:i + 1])]
            self.blocks.append(
                nn.ModuleList([
                    Block(dims[i], dims[i] // head_dim,
                          settings['expansions'][i],
                          settings['kernel_sizes'][i],
                          settings['grid_sizes'][i], settings['ds_ratios'][i],
                          self.stage_dilation(i), rate, self.attn_impl)
                    for rate in stage_rates
                ]))
        self.freeze_stages()

    def forward_maps(self, x: Tensor) -> tuple:
        """(B, 3, H, W) -> tuple of (B, out_channels[i], H_i, W_i)."""
        outs = []
        x = self.patch_embed(x.permute(0, 2, 3, 1).contiguous())
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                x = getattr(self, f'ds{i + 1}')(x)
            for block in blocks:
                x = self.run_block(block, x)
            if i in self.out_indices:
                outs.append(x.permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.patch_embed]
        if stage > len(self.blocks):
            return []
        blocks = self.blocks[stage - 1]
        return [blocks, getattr(self, f'ds{stage}')] if stage > 1 else [blocks]

    @property
    def num_blocks(self) -> int:
        return sum(map(len, self.blocks))

    def layer_id(self, name: str) -> int:
        parts = name.split('.')
        if parts[0] == 'patch_embed':
            return 0
        if parts[0] == 'blocks':
            stage, block = int(parts[1]), int(parts[2])
        else:
            stage, block = int(parts[0][len('ds'):]) - 1, 0
        return sum(len(self.blocks[i]) for i in range(stage)) + block + 1

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if 'blocks.0.0.attn.grid_norm.weight' not in state_dict:
            return None
        converted = {}
        for name, value in state_dict.items():
            if '.proj_norm.' in name:
                continue
            prefix = 'backbone.'
            if name.startswith('classifier.1.'):
                name, prefix = name.replace('classifier.1.', 'fc.'), 'head.'
            converted[prefix + name] = value
        return converted
