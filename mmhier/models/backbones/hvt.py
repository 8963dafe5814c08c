"""HVT, "Scalable Vision Transformers with Hierarchical Pooling".

Paper: arXiv 2103.10619, ICCV 2021 pp. 377-386.
Authors' code: github.com/zhuang-group/HVT (Apache-2.0, classification only).

Differences from the authors' code:
- any input size: position embeddings are resampled (:class:`TokenLayout` says
  where pooled tokens lie), images that 16x16 patches do not tile are padded
  on the right and bottom.
- the authors pool the flattened sequence, so that windows run from the end
  of a row of patches into the next one and the token at the very end is
  dropped. On the 14x14 patches that the models were trained on this is kept,
  and the numbers are theirs; on every other grid each row is pooled by
  itself and windows are cut off at its end, so that nothing wraps, no token
  is dropped and there is no padding to mask.
- four stride-4/8/16/32 maps, which the paper does not have: tokens at four
  depths are normalised and rescaled, as in BEiT and XCiT.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from ..layers import Mlp, SelfAttention, crop, max_cells, resize
from .base import HierarchicalBackbone

PATCH_SIZE = 16
# Side, in patches, of the 224x224 images that the models were trained on.
TRAINED_GRID = 14
POOL_MODES = ('1d', 'none', '2d')
OUT_TYPES = ('featmap', 'avg_featmap')


class TokenLayout:
    """Where the tokens of a pooled sequence lie on a grid of patches.

    After k pools (level k) the tokens form rows x columns. Token (r, c)
    starts at patch (r * row_stride, c * 2^k) and, in '1d', is the maximum
    over the patches c * 2^k to c * 2^k + 2^(k+1) - 2 of its row, as far as
    the row reaches. With '1d' on the trained grid, all patches count as one
    row, whose last window, never a full one, is dropped.

    All positions are arithmetic, `trained` (0 or 1) included, so that one
    compiled or exported graph serves every size.

    Args:
        height (int): Rows of the grid, in patches.
        width (int): Columns of the grid, in patches.
        pool_mode (str): '1d' or '2d'.
    """

    def __init__(self, height: int, width: int, pool_mode: str):
        self.height = height
        self.width = width
        self.is_2d = pool_mode == '2d'
        if self.is_2d:
            self.trained = 0
        else:
            dy, dx = height - TRAINED_GRID, width - TRAINED_GRID
            self.trained = 1 // (1 + dy * dy + dx * dx)
        # The grid, or the trained grid read as a single row.
        self.num_rows = height - self.trained * (TRAINED_GRID - 1)
        self.row_width = (
            width + self.trained * (TRAINED_GRID**2 - TRAINED_GRID))

    def row_stride(self, level: int) -> int:
        """Patches between neighbouring rows of tokens."""
        return 2**level if self.is_2d else 1

    def rows(self, level: int) -> int:
        """Number of rows of tokens."""
        return -(-self.num_rows // self.row_stride(level))

    def columns(self, level: int) -> int:
        """Number of tokens in each row."""
        columns = self.row_width
        for _ in range(level):
            columns = (columns + 1) // 2 - self.trained
        return columns

    def num_tokens(self, level: int) -> int:
        """Length of the sequence."""
        return self.rows(level) * self.columns(level)

    def pool(self, x: Tensor, level: int) -> Tensor:
        """Max-pool tokens, (B, num_tokens(level), C), to the next level."""
        columns, pooled = self.columns(level), self.columns(level + 1)
        token = torch.arange(self.num_tokens(level + 1), device=x.device)
        row, column = (token // pooled)[:, None], (token % pooled)[:, None]
        step = torch.arange(3, device=x.device)
        # Steps that leave the grid repeat its border: no other maximum.
        if self.is_2d:
            row = 2 * row + step.repeat_interleave(3) - 1
            row = row.clamp(0, self.rows(level) - 1)
            column = 2 * column + step.repeat(3) - 1
        else:
            column = 2 * column + step
        index = row * columns + column.clamp(0, columns - 1)
        windows = x.index_select(1, index.flatten())
        return windows.unflatten(1, (-1, index.shape[1])).max(2).values

    def lift(self, x: Tensor, level: int) -> Tensor:
        """Put tokens of a level back on the grid of patches.

        Args:
            x (Tensor): (B, num_tokens(level), C).
            level (int): Number of pools behind x.

        Returns:
            Tensor: (B, C, height, width). Each token fills the patches from
            its own start to that of the next token, the last one the rest.
        """
        x = x.transpose(1, 2)
        if level > 0:
            patch = torch.arange(self.height * self.width, device=x.device)
            columns = self.columns(level)
            row = patch // self.row_width // self.row_stride(level)
            column = patch % self.row_width // 2**level
            index = row * columns + column.clamp(max=columns - 1)
            x = x.index_select(2, index)
        return x.unflatten(2, (self.height, self.width)).contiguous()

    def sample(self, x: Tensor, level: int) -> Tensor:
        """Values of a map at the patches where the tokens start.

        Args:
            x (Tensor): (B, C, height, width).
            level (int): Number of pools.

        Returns:
            Tensor: (B, num_tokens(level), C).
        """
        x = x.flatten(2).transpose(1, 2)
        if level == 0:
            return x
        token = torch.arange(self.num_tokens(level), device=x.device)
        columns = self.columns(level)
        row = token // columns * self.row_stride(level)
        return x.index_select(1,
                              row * self.row_width + token % columns * 2**level)


def resample_positions(table: Tensor, layout: TokenLayout,
                       level: int) -> Tensor:
    """Position embeddings of the trained grid for the tokens of another one.

    The table is put back on the 14x14 patches, resized bicubically and
    sampled where the tokens start. On the trained grid this changes no bit.

    Args:
        table (Tensor): (1, N, C), learned after `level` pools of 14x14
            patches, in '1d'.
        layout (TokenLayout): Of the grid at hand.
        level (int): Number of pools.

    Returns:
        Tensor: (1, layout.num_tokens(level), C).
    """
    trained = TokenLayout(TRAINED_GRID, TRAINED_GRID, '1d')
    grid = resize(
        trained.lift(table, level), layout.height, layout.width, 'bicubic')
    return layout.sample(grid, level)


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        drop_path_rate (float): Probability of dropping either residual.
        attn_impl (str): See :func:`mmhier.models.layers.attend`.
        num_pooled (int): Length of `pos_embed`, which is added after the
            pooling behind this block; 0 without pooling.
    """

    def __init__(self, embed_dims: int, num_heads: int, drop_path_rate: float,
                 attn_impl: str, num_pooled: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = SelfAttention(embed_dims, num_heads, attn_impl)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = Mlp(embed_dims, 4 * embed_dims)
        self.drop_path = DropPath(drop_path_rate)
        self.pos_embed = None
        if num_pooled > 0:
            self.pos_embed = _position_table(num_pooled, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C), before pooling."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def _position_table(num_tokens: int, embed_dims: int) -> nn.Parameter:
    table = nn.Parameter(torch.empty(1, num_tokens, embed_dims))
    nn.init.trunc_normal_(table, std=0.02)
    return table


def _pyramid_norm(norm_cfg: dict, embed_dims: int) -> nn.Module:
    try:
        if norm_cfg['type'] == 'LN2d':
            # Found from any scope, not only from mmpretrain's.
            norm_cfg = dict(norm_cfg, type='mmpretrain.LN2d')
        return build_norm_layer(norm_cfg, embed_dims)[1]
    except (AssertionError, KeyError, TypeError) as error:
        raise MMHierError(
            f"norm_cfg={norm_cfg} of HVT: expected a dict with type 'BN', "
            "'SyncBN', 'GN' (and num_groups) or 'LN2d', and arguments of that "
            'norm') from error


class PyramidLevel(nn.Module):
    """Brings a stride-16 map to another stride.

    Stride 8 is one 2x2 deconvolution, stride 4 two with a norm and GELU
    between, stride 32 a 2x2 max-pool; stride 16 stays as it is.

    Args:
        embed_dims (int): Channels C.
        stride (int): 4, 8, 16 or 32.
        norm_cfg (dict): Of the norm at stride 4.
    """

    def __init__(self, embed_dims: int, stride: int, norm_cfg: dict):
        super().__init__()
        self.stride = stride
        self.up = nn.ModuleList()
        if stride <= 8:
            self.up.append(nn.ConvTranspose2d(embed_dims, embed_dims, 2, 2))
        if stride == 4:
            self.up.append(
                nn.Sequential(
                    _pyramid_norm(norm_cfg, embed_dims), nn.GELU(),
                    nn.ConvTranspose2d(embed_dims, embed_dims, 2, 2)))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Rescale the map of an image.

        Args:
            x (Tensor): (B, C, ceil(height / 16), ceil(width / 16)).
            height (int): Of the image, in pixels.
            width (int): Of the image, in pixels.

        Returns:
            Tensor: (B, C, ceil(height / stride), ceil(width / stride)).
        """
        stride = 16
        for step in self.up:
            stride //= 2
            # Crop to the image before a norm sees the rest.
            x = crop(step(x), -(-height // stride), -(-width // stride))
        x = x.contiguous()
        if self.stride == 32:
            x = max_cells(x, -(-height // 16), -(-width // 16))
        return x


def _arch(embed_dims: int, num_heads: int, pool_block_width: int) -> dict:
    return dict(
        embed_dims=embed_dims,
        num_heads=num_heads,
        depth=12,
        pool_block_width=pool_block_width)


@MODELS.register_module()
class HVT(HierarchicalBackbone):
    """HVT backbone: a ViT whose token sequence is max-pooled on the way.

    The token sequences at four depths (`tap_indices`), before the pooling of
    that block if it pools, go through a LayerNorm each, are put back on the
    grid of 16x16 patches and rescaled to strides 4, 8, 16 and 32. On 224x224
    images the tokens are those of the authors' code, bit by bit.

    Attention is global and position embeddings are stretched over the whole
    grid, so padding an image, as batching does, changes the features of the
    real part: 32 pixels beside 256x256 by 0.3 to 0.4 of a map's standard
    deviation (random weights). The backbone itself adds no tokens.

    Stages 1 to 4 are the blocks up to each tap, with their pooled position
    embeddings; the stem is the patch embedding with its positions. The norms
    and the pyramid behind the taps are never frozen and count as the last
    layer in layer-wise decay; a classifier's norm belongs to stage 4.

    Args:
        arch (str | dict): 'ti-1', 's-0', 's-1', 's-2', 's-3', 's-4' (the
            published Scale-HVT-Ti-4 is s-4: 'scale-ti-4'), or a dict with
            ``embed_dims``, ``num_heads``, ``depth`` (number of blocks) and
            ``pool_block_width`` (blocks 0, n, 2n, ... pool; 0 for no
            pooling). Defaults to 's-1'.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.1, the authors'.
        pool_mode (str): '1d' is the authors' max-pooling by 3 with stride 2
            along the rows, 'none' no pooling, '2d' pools both directions
            (3x3, stride 2, padding 1): all weights load, but it needs
            fine-tuning. Defaults to '1d'.
        tap_indices (Sequence[int], optional): Blocks, ascending, whose
            output becomes the stride 4, 8, 16 and 32 map. Defaults to None,
            the ends of four equal parts: (2, 5, 8, 11) of 12 blocks.
        norm_cfg (dict): Norm of the stride-4 map: type 'BN', 'SyncBN', 'GN'
            or 'LN2d'. Defaults to ``dict(type='BN')``.
        out_type (str): 'featmap' for the maps, 'avg_featmap' for the (B, C)
            mean of the final, normed tokens. Defaults to 'featmap'.
        out_indices (Sequence[int], optional): Defaults to None: all maps,
            or (3, ) for 'avg_featmap'.
        **kwargs: ``output_stride``, ``frozen_stages``, ``norm_eval``,
            ``with_cp``, ``attn_impl`` ('auto', 'sdpa', 'eager'),
            ``compile`` and ``init_cfg`` of :class:`HierarchicalBackbone`.

    Raises:
        ValueError: See :class:`HierarchicalBackbone`.

    Example:
        >>> backbone = HVT('ti-1').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    arch_zoo = {
        'ti-1': _arch(192, 3, 12),
        's-0': _arch(384, 6, 0),
        's-1': _arch(384, 6, 12),
        's-2': _arch(384, 6, 6),
        's-3': _arch(384, 6, 4),
        's-4': _arch(384, 6, 3),
    }
    arch_aliases = {'scale-ti-4': 's-4'}
    default_init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0),
        dict(type='Constant', layer='LayerNorm', val=1, bias=0),
    ]
    new_parameters = ('norm_', 'pyramid.')

    def __init__(self,
                 arch: str | dict = 's-1',
                 drop_path_rate: float = 0.1,
                 pool_mode: str = '1d',
                 tap_indices: Sequence[int] | None = None,
                 norm_cfg: dict = dict(type='BN'),
                 out_type: str = 'featmap',
                 out_indices: Sequence[int] | None = None,
                 **kwargs: Any):
        if out_indices is None:
            out_indices = (3, ) if out_type == 'avg_featmap' else range(4)
        super().__init__(arch, out_indices=out_indices, **kwargs)
        dims, depth = self.settings['embed_dims'], self.settings['depth']
        if tap_indices is None:
            tap_indices = [depth * i // 4 - 1 for i in (1, 2, 3, 4)]
        self.pool_mode = pool_mode
        self.tap_indices = tuple(tap_indices)
        self.out_type = out_type
        self._check_arguments()
        self.out_channels = (dims, ) * len(self.out_indices)
        # Blocks whose output goes through a norm.
        self.taps = sorted({self.tap_indices[i] for i in self.out_indices})
        if out_type == 'avg_featmap':
            self.taps = [depth - 1]

        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module('proj',
                                    nn.Conv2d(3, dims, PATCH_SIZE, PATCH_SIZE))
        trained = TokenLayout(TRAINED_GRID, TRAINED_GRID, '1d')
        self.pos_embed = _position_table(trained.num_tokens(0), dims)
        self.blocks = nn.ModuleList()
        level = 0
        rates = np.linspace(0, drop_path_rate, depth).tolist()
        for i in range(self.taps[-1] + 1):
            pools = self._pools_behind(i)
            level += pools
            self.blocks.append(
                Block(dims, self.settings['num_heads'], rates[i],
                      self.attn_impl,
                      trained.num_tokens(level) if pools else 0))
        for tap in self.taps:
            self.add_module(self._norm_name(tap), nn.LayerNorm(dims, eps=1e-6))
        if out_type == 'featmap':
            self.pyramid = nn.ModuleDict({
                f'stride{self.all_strides[i]}':
                PyramidLevel(dims, self.stage_stride(i), norm_cfg)
                for i in self.out_indices
            })
        self.freeze_stages()

    def _check_arguments(self) -> None:
        settings = self.settings
        if settings['embed_dims'] % settings['num_heads']:
            raise MMHierError(
                f'embed_dims={settings["embed_dims"]} in the arch of HVT: '
                f'expected a multiple of num_heads={settings["num_heads"]}')
        depth, width = settings['depth'], settings['pool_block_width']
        # Six pools leave 2 of 196 tokens, a seventh none.
        if width < 0 or width > 0 and (depth - 1) // width > 5:
            raise MMHierError(
                f'pool_block_width={width} in the arch of HVT: expected 0 (no'
                f' pooling) or, for at most six pools, {-(-depth // 6)} or '
                'more')
        for name, allowed in (('pool_mode', POOL_MODES), ('out_type',
                                                          OUT_TYPES)):
            if getattr(self, name) not in allowed:
                raise MMHierError(
                    f'{name}={getattr(self, name)!r} of HVT: expected one of '
                    f'{", ".join(map(repr, allowed))}')
        if self.out_type == 'avg_featmap' and self.out_indices != (3, ):
            raise MMHierError(
                f"out_indices={self.out_indices} of HVT: out_type="
                "'avg_featmap' returns the final tokens alone, expected (3,)")
        taps = self.tap_indices
        if (len(taps) != 4 or list(taps) != sorted(taps)
                or not set(taps) <= set(range(depth))):
            raise MMHierError(
                f'tap_indices={taps} of HVT: expected four ascending numbers '
                f'from 0 to {depth - 1}')

    def _pools_behind(self, block: int) -> bool:
        width = self.settings['pool_block_width']
        if self.pool_mode == 'none' or width == 0 or block % width:
            return False
        # Tokens behind the last tap are not pooled.
        return self.out_type == 'avg_featmap' or block < self.taps[-1]

    def _norm_name(self, block: int) -> str:
        """'norm' behind the last block, as in official files."""
        last = self.settings['depth'] - 1
        return 'norm' if block == last else f'norm_{block}'

    def forward_maps(self, x: Tensor) -> tuple:
        """(B, 3, H, W) -> tuple of (B, C, H_i, W_i), or of one (B, C)."""
        height, width = x.shape[2:]
        rows, columns = -(-height // PATCH_SIZE), -(-width // PATCH_SIZE)
        x = self.patch_embed(
            F.pad(x, (0, columns * PATCH_SIZE - width, 0,
                      rows * PATCH_SIZE - height)))
        layout = TokenLayout(rows, columns, self.pool_mode)
        x = x.flatten(2).transpose(1, 2)
        x = x + resample_positions(self.pos_embed, layout, 0)
        maps = {}
        level = 0
        for i, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if self.out_type == 'featmap' and i in self.taps:
                norm = getattr(self, self._norm_name(i))
                maps[i] = layout.lift(norm(x), level)
            if block.pos_embed is not None:
                x = layout.pool(x, level)
                level += 1
                x = x + resample_positions(block.pos_embed, layout, level)
        if self.out_type == 'avg_featmap':
            return (self.norm(x).mean(1), )
        return tuple(
            level(maps[self.tap_indices[i]], height, width)
            for i, level in zip(self.out_indices, self.pyramid.values()))

    def stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.patch_embed]
        first = self.tap_indices[stage - 2] + 1 if stage > 1 else 0
        end = self.tap_indices[stage - 1] + 1
        if self.out_type == 'avg_featmap' and stage == 4:
            return [*self.blocks[first:], self.norm]
        return list(self.blocks[first:end])

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        return [self.pos_embed] if stage == 0 else []

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def layer_id(self, name: str) -> int:
        parts = name.split('.')
        if parts[0] in ('patch_embed', 'pos_embed'):
            return 0
        if parts[0] == 'blocks':
            return int(parts[1]) + 1
        return self.num_blocks + 1

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        names = {
            'pos_embed', 'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight'
        }
        # A class token is ViT's or DeiT's; new parameters are our own files'.
        if not names <= set(state_dict) or any(
                name.startswith(('cls_token', *cls.new_parameters))
                for name in state_dict):
            return None
        renamed = {
            name: f'backbone.{name}'.replace('backbone.head.', 'head.fc.')
            for name in state_dict
        }
        return {renamed[name]: value for name, value in state_dict.items()}
