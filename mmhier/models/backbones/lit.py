"""LIT, "Less is More: Pay Less Attention in Vision Transformers".

Paper: arXiv 2105.14217, AAAI 2022.
Authors' code: github.com/ziplab/LIT (Apache-2.0), which holds two code bases:
LIT-Ti grew out of PVT (absolute position embeddings, LayerNorms of eps 1e-6,
no norm on the outputs), LIT-S/M/B out of Swin (relative position bias over
the whole map, eps 1e-5, norms on the outputs). Between them only that
differs; LIT-Ti's patch embedding of stage k + 1 is the downsampling that ends
stage k here.

Differences from the authors' code:
- any input size: the image is padded to a multiple of 4 and odd maps to even
  ones, on the right and bottom, where the authors drop the last row or column.
  `ceil_mode=False` does as they do (LIT-S/M/B pad the image all the same).
- LIT-Ti compares the token grid with the table of its own stage; the authors
  compare every stage with the first one's and crash at 448x448.
- the bias is gathered from its table by rows and columns; no index buffers.
- `frozen_stages=k` freezes k stages, not k - 1.
"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from ..layers import (
    DeformableMerging,
    Mlp,
    PatchEmbed,
    SelfAttention,
    attend,
    attend_grid,
    resize,
    resize_bias_table,
)
from .base import HierarchicalBackbone

BIAS_TABLE = 'relative_position_bias_table'
# Sides of the four token grids of a 224x224 image.
IMAGENET_GRIDS = (56, 28, 14, 7)


class Attention(SelfAttention):
    """Self-attention over a whole map, with relative position bias.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        bias_size (int, optional): Side of the square grid whose biases are
            learned; those of other grids are interpolated. None for
            attention without a bias.
        attn_impl (str): 'auto' holds the biases and logits of a few rows of
            queries at a time; 'sdpa' and 'eager' see
            :func:`mmhier.models.layers.attend`.
    """

    def __init__(self, embed_dims: int, num_heads: int, bias_size: int | None,
                 attn_impl: str):
        super().__init__(embed_dims, num_heads, attn_impl)
        self.bias_size = bias_size
        if bias_size is not None:
            self.relative_position_bias_table = nn.Parameter(
                torch.empty((2 * bias_size - 1)**2, num_heads))
            trunc_normal_(self.relative_position_bias_table, std=0.02)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, *context: int) -> Tensor:
        """(B, num_heads, height * width, d) each, then height and width; more
        tokens, which precede those of the grid, only without a bias."""
        if self.bias_size is None:
            return attend(q, k, v, attn_impl=self.attn_impl)
        height, width = context
        table = resize_bias_table(self.relative_position_bias_table, height,
                                  width)
        return attend_grid(q, k, v, table, height, width, self.attn_impl)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args:
                              Any) -> None:
        *_, error_msgs = args
        table = state_dict.get(prefix + BIAS_TABLE)
        if (self.bias_size is not None and table is not None
                and len(table) != len(self.relative_position_bias_table)):
            error_msgs.append(
                f'{prefix}{BIAS_TABLE} is learned on a grid of side '
                f'{(math.isqrt(len(table)) + 1) // 2}, this LIT has '
                f'{self.bias_size}: set its bias_size, or load through '
                'init_cfg, which resizes the tables')
        super()._load_from_state_dict(state_dict, prefix, *args)


class Block(nn.Module):
    """Attention, then an MLP, both pre-norm and residual; or the MLP alone.

    Args:
        embed_dims (int): Channels C.
        hidden_dims (int): Channels inside the MLP.
        norm_eps (float): Of the LayerNorms.
        drop_path_rate (float): Stochastic depth.
        attn (nn.Module, optional): :class:`Attention`, None in stages 1, 2.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, norm_eps: float,
                 drop_path_rate: float, attn: Attention | None):
        super().__init__()
        self.attn = attn
        if attn is not None:
            self.norm1 = nn.LayerNorm(embed_dims, norm_eps)
        self.norm2 = nn.LayerNorm(embed_dims, norm_eps)
        self.mlp = Mlp(embed_dims, hidden_dims)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        if self.attn is not None:
            x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks, the embeddings added before and the downsampling after them.

    Args:
        blocks (list[Block]): The blocks.
        downsample (DeformableMerging, optional): None in the last stage.
        pos_embed (Tensor, optional): (1, side * side, C), initial position
            embedding of a square grid; others are interpolated.
        cls_token (bool): Whether a class token joins, with a position
            embedding of its own. Defaults to False.
    """

    def __init__(self,
                 blocks: list[Block],
                 downsample: DeformableMerging | None,
                 pos_embed: Tensor | None,
                 cls_token: bool = False):
        super().__init__()
        self.pos_embed = self.cls_token = None
        if pos_embed is not None:
            self.pos_embed = nn.Parameter(trunc_normal_(pos_embed, std=0.02))
        if cls_token:
            assert pos_embed is not None
            self.cls_token = nn.Parameter(
                trunc_normal_(
                    pos_embed.new_empty(1, 1, pos_embed.shape[2]), std=0.02))
            self.cls_pos_embed = nn.Parameter(
                trunc_normal_(torch.empty_like(self.cls_token), std=0.02))
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def embed(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> tokens (B, H * W, C), the class token before."""
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        if self.pos_embed is not None:
            x = x + self._resized_pos_embed(height, width)
        if self.cls_token is not None:
            first = (self.cls_token + self.cls_pos_embed).to(x.dtype)
            x = torch.cat((first.expand(batch, 1, channels), x), 1)
        return x

    def _resized_pos_embed(self, height: int, width: int) -> Tensor:
        assert self.pos_embed is not None
        side = math.isqrt(self.pos_embed.shape[1])
        grid = self.pos_embed.transpose(1, 2).unflatten(2, (side, side))
        grid = resize(grid, height, width, 'bilinear')
        return grid.flatten(2).transpose(1, 2)


def _relative(embed_dims: Sequence[int], depths: Sequence[int],
              num_heads: Sequence[int]) -> dict:
    return dict(
        embed_dims=embed_dims,
        depths=depths,
        num_heads=num_heads,
        mlp_ratios=(4, 4, 4, 4),
        position='relative',
        norm_eps=1e-5)


@MODELS.register_module()
class LIT(HierarchicalBackbone):
    """LIT backbone: MLP blocks in stages 1 and 2, full attention in 3 and 4.

    Zeros on the right and bottom of an image, as batching adds, leave the
    outputs of stages 1 and 2 of small, medium and base as they were, but for
    positions whose deformable taps reach over the border. Stages 3 and 4
    attend to the padding like to anything else, as the authors' do, and
    tiny interpolates its position embeddings over the padded map in every
    stage. Odd maps get a row or column of zeros before they are merged.

    Args:
        arch (str | dict): 'tiny', 'small', 'medium', 'base', or a dict with
            ``embed_dims``, ``depths``, ``mlp_ratios``, four numbers each,
            ``num_heads``, two numbers for stages 3 and 4, ``position``,
            'absolute' (embeddings added in every stage) or 'relative' (bias
            tables in stages 3 and 4), and ``norm_eps`` of the LayerNorms.
            Defaults to 'tiny'.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Published: tiny 0.1, small 0.2,
            medium 0.3, base 0.5. Defaults to 0.
        out_indices (Sequence[int], optional): See
            :class:`HierarchicalBackbone`. Defaults to None: (3, ) if
            ``out_type`` asks for a vector, else (0, 1, 2, 3).
        out_type (str): 'featmap' for maps, 'avg_featmap' for the mean of the
            last stage's normed tokens and 'cls_token' for its normed class
            token (absolute position only), both (B, C). The published
            classifiers are tiny with 'cls_token' and the others with
            'avg_featmap'. Defaults to 'featmap'.
        out_norms (Sequence[int], optional): Which of the four maps, if
            returned, carry a LayerNorm: (1, 2, 3) in the published detectors
            and (0, 1, 2, 3) in the segmentors of small, medium and base, ()
            in those of tiny. Defaults to None, the detectors'.
        bias_size (int | tuple[int, int], optional): Sides of the grids on
            which the bias tables of stages 3 and 4 are learned, or the first
            of them, the second being half of it. Published: 14 (ImageNet,
            729 and 169 rows), 50 (detection, 9801 and 2401), 32
            (segmentation, 3969 and 961). ``init_cfg`` resizes pretrained
            tables of another size; each forward resizes them to the image.
            Defaults to None: 14 if ``position`` is 'relative'.
        ceil_mode (bool): False drops the last row or column of an odd map
            and, in tiny, of the image, as the authors do in their published
            results. Defaults to True.
        norm_cfg (dict): Of the BatchNorm in the downsampling.
            Defaults to ``dict(type='BN')``.
        **kwargs: ``output_stride``, ``frozen_stages`` (the downsampling
            belongs to the stage before it), ``norm_eval``, ``with_cp``,
            ``attn_impl`` ('auto', 'sdpa', 'eager'), ``compile`` and
            ``init_cfg`` of :class:`HierarchicalBackbone`.

    Raises:
        ValueError: See :class:`HierarchicalBackbone`.

    Example:
        >>> backbone = LIT('tiny').eval()
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    arch_zoo = {
        'tiny':
        dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 6, 3),
            num_heads=(5, 8),
            mlp_ratios=(8, 8, 4, 4),
            position='absolute',
            norm_eps=1e-6),
        'small':
        _relative((96, 192, 384, 768), (2, 2, 6, 2), (12, 24)),
        'medium':
        _relative((96, 192, 384, 768), (2, 2, 18, 2), (12, 24)),
        'base':
        _relative((128, 256, 512, 1024), (2, 2, 18, 2), (16, 32)),
    }
    arch_aliases = {'ti': 'tiny', 's': 'small', 'm': 'medium', 'b': 'base'}
    out_types = ('featmap', 'avg_featmap', 'cls_token')
    # Released classifiers have no norms on the maps.
    new_parameters = ('norm0.', 'norm1.', 'norm2.', 'norm3.')
    # Convolutions keep PyTorch's initialization, offsets start at zero.
    default_init_cfg = [
        dict(type='TruncNormal', layer='Linear', std=0.02, bias=0),
        dict(type='Constant', layer=['LayerNorm', '_BatchNorm'], val=1, bias=0),
    ]

    def __init__(self,
                 arch: str | dict = 'tiny',
                 drop_path_rate: float = 0.,
                 out_indices: Sequence[int] | None = None,
                 out_type: str = 'featmap',
                 out_norms: Sequence[int] | None = None,
                 bias_size: int | tuple[int, int] | None = None,
                 ceil_mode: bool = True,
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs: Any):
        if out_type not in self.out_types:
            raise MMHierError(f'out_type={out_type!r} of LIT: expected one of '
                              f'{", ".join(map(repr, self.out_types))}')
        if out_indices is None:
            out_indices = range(4) if out_type == 'featmap' else (3, )
        super().__init__(arch, out_indices=out_indices, **kwargs)
        if out_type != 'featmap' and self.out_indices != (3, ):
            raise MMHierError(
                f'out_indices={self.out_indices} of LIT: out_type='
                f'{out_type!r} returns the last stage alone, expected (3,)')
        self._check_settings()
        settings = self.settings
        absolute = settings['position'] == 'absolute'
        if out_type == 'cls_token' and not absolute:
            raise MMHierError("out_type='cls_token' of LIT: only an arch with "
                              'absolute position embeddings (tiny) has a class '
                              "token, take 'avg_featmap'")
        self.out_type = out_type
        self.bias_sizes = self._resolve_bias_size(bias_size)
        dims, depths = settings['embed_dims'], settings['depths']
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()

        self.patch_embed = PatchEmbed(dims[0], ceil_mode or not absolute)
        self.layers = nn.ModuleList()
        last = self.out_indices[-1]
        for i in range(last + 1):
            blocks = [
                Block(dims[i], dims[i] * settings['mlp_ratios'][i],
                      settings['norm_eps'], rates[sum(depths[:i]) + j],
                      self._attention(i) if i > 1 else None)
                for j in range(depths[i])
            ]
            downsample = pos_embed = None
            if i < last:
                step = self.stage_step(i + 1), self.stage_dilation(i)
                downsample = DeformableMerging(dims[i], dims[i + 1], norm_cfg,
                                               ceil_mode, *step)
            if absolute:
                pos_embed = torch.empty(1, IMAGENET_GRIDS[i]**2, dims[i])
            self.layers.append(
                Stage(
                    blocks,
                    downsample,
                    pos_embed,
                    cls_token=i == 3 and out_type == 'cls_token'))
        if out_type != 'featmap':
            self.norm = nn.LayerNorm(dims[-1], settings['norm_eps'])
        else:
            for i in self._resolve_out_norms(out_norms):
                self.add_module(f'norm{i}',
                                nn.LayerNorm(dims[i], settings['norm_eps']))
        self.freeze_stages()

    def _check_settings(self) -> None:
        settings = self.settings
        lengths = dict(embed_dims=4, depths=4, mlp_ratios=4, num_heads=2)
        for name, length in lengths.items():
            if len(settings[name]) != length:
                raise MMHierError(f'{name}={settings[name]} in the arch of '
                                  f'LIT: expected {length} numbers')
        if settings['position'] not in ('absolute', 'relative'):
            raise MMHierError(f'position={settings["position"]!r} in the arch '
                              "of LIT: expected 'absolute' or 'relative'")
        for dims, heads in zip(settings['embed_dims'][2:],
                               settings['num_heads']):
            if dims % heads:
                raise MMHierError(
                    f'num_heads={settings["num_heads"]} in the arch of LIT: '
                    'expected divisors of the last two of embed_dims='
                    f'{settings["embed_dims"]}')

    def _resolve_bias_size(
            self,
            bias_size: int | tuple[int, int] | None) -> tuple[int | None, ...]:
        """Sides of the grids of the bias tables, per stage; None without."""
        if self.settings['position'] == 'absolute':
            if bias_size is not None:
                raise MMHierError(
                    f'bias_size={bias_size} of LIT: an arch with absolute '
                    'position embeddings (tiny) has no bias tables, leave it '
                    'out')
            return (None, ) * 4
        if bias_size is None:
            bias_size = IMAGENET_GRIDS[2]
        sides = bias_size
        if isinstance(bias_size, int):
            sides = (bias_size, -(-bias_size // 2))
        if (not isinstance(sides, Sequence) or len(sides) != 2
                or not all(isinstance(s, int) and s > 0 for s in sides)):
            raise MMHierError(
                f'bias_size={bias_size} of LIT: expected the side of the grid '
                'of stage 3, or of stages 3 and 4, as positive integers; '
                'published are 14 (ImageNet), 50 (detection) and 32 '
                '(segmentation)')
        return (None, None, *sides)

    def _resolve_out_norms(self, out_norms: Sequence[int] | None) -> list[int]:
        """Levels that are returned with a norm."""
        if out_norms is None:
            absolute = self.settings['position'] == 'absolute'
            out_norms = () if absolute else (1, 2, 3)
        if not set(out_norms) <= set(range(4)):
            raise MMHierError(f'out_norms={tuple(out_norms)} of LIT: expected '
                              'numbers from 0 to 3')
        return [i for i in self.out_indices if i in out_norms]

    def _attention(self, stage: int) -> Attention:
        return Attention(self.settings['embed_dims'][stage],
                         self.settings['num_heads'][stage - 2],
                         self.bias_sizes[stage], self.attn_impl)

    def forward_maps(self, x: Tensor) -> tuple:
        """(B, 3, H, W) -> tuple of (B, C_i, H_i, W_i), or of one (B, C)."""
        outs = []
        x = self.patch_embed(x)
        for i, stage in enumerate(self.layers):
            batch, height, width, channels = x.shape
            x = stage.embed(x)
            for block in stage.blocks:
                x = self.run_block(block, x, height, width)
            if self.out_type == 'cls_token' and i == 3:
                return (self.norm(x)[:, 0], )
            if self.out_type == 'avg_featmap' and i == 3:
                return (self.norm(x).mean(1), )
            x = x.view(batch, height, width, channels)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}', nn.Identity())
                outs.append(norm(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outs)

    def stage_modules(self, stage: int) -> list[nn.Module]:
        if stage == 0:
            return [self.patch_embed]
        if stage > len(self.layers):
            return []
        names = [f'norm{stage - 1}'] + ['norm'] * (stage == 4)
        norms = [getattr(self, name) for name in names if hasattr(self, name)]
        return [self.layers[stage - 1], *norms]

    @property
    def num_blocks(self) -> int:
        return sum(len(stage.blocks) for stage in self.layers)

    def layer_id(self, name: str) -> int:
        """Depth of `name`; output norms belong to the last one."""
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

    def fit_state_dict(self, state_dict: dict[str, Tensor]) -> list[str]:
        """Resize bias tables to ``bias_size``, bicubic as the authors do."""
        resized = []
        own = dict(self.named_parameters())
        for name, table in state_dict.items():
            if (name.endswith(BIAS_TABLE) and name in own
                    and table.shape != own[name].shape):
                side = self.bias_sizes[int(name.split('.')[1])]
                assert side is not None
                state_dict[name] = resize_bias_table(table.float(), side, side)
                resized.append(name)
        return resized

    @classmethod
    def convert_official(
            cls, state_dict: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Rename weights of a released classifier or backbone."""
        if 'pos_embed4' in state_dict and 'block1.0.norm2.bias' in state_dict:
            state_dict = _rename_tiny(state_dict)
        elif ('layers.0.downsample.dconv.weight' not in state_dict
              or any('.mlp.dwconv.' in name for name in state_dict)):  # LITv2
            return None
        converted = {}
        for name, value in state_dict.items():
            if name.endswith('relative_position_index'):
                continue
            prefix = 'backbone.'
            if name.startswith('head.'):
                name, prefix = name.replace('head.', 'fc.'), 'head.'
            converted[prefix + name] = value
        return converted


def _rename_tiny(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the authors' LIT-Ti -> names of their LIT-S/M/B.

    The 50th slot of pos_embed4, the first, is that of the class token, which
    the dense models have no use for.
    """
    renamed = {}
    for name, value in state_dict.items():
        parts = name.split('.', 1)
        module, rest = parts[0], parts[-1]
        if module == 'cls_token':
            name = 'layers.3.cls_token'
        elif module.startswith('pos_embed'):
            stage = int(module[len('pos_embed'):]) - 1
            name = f'layers.{stage}.pos_embed'
            if stage == 3:
                if 'cls_token' in state_dict:
                    renamed['layers.3.cls_pos_embed'] = value[:, :1]
                value = value[:, 1:]
        elif module == 'patch_embed1':
            name = f'patch_embed.{rest}'
        elif module.startswith('patch_embed'):
            stage = int(module[len('patch_embed'):]) - 2
            name = f'layers.{stage}.downsample.{rest}'
        elif module.startswith('block'):
            name = f'layers.{int(module[len("block"):]) - 1}.blocks.{rest}'
        renamed[name] = value
    return renamed
