"""How much a token attends to every other one, read off a backbone."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from mmhier.errors import MMHierError
from mmhier.models.backbones.accvit import (
    WINDOW_SIZE,
    ACCViT,
    AtrousAttention,
    AtrousBranch,
)
from mmhier.models.backbones.base import HierarchicalBackbone
from mmhier.models.backbones.hatnet import HATNet, HierarchicalAttention
from mmhier.models.backbones.hvt import HVT, PATCH_SIZE, TokenLayout
from mmhier.models.backbones.hvt import Block as HVTBlock
from mmhier.models.backbones.lit import LIT, Attention
from mmhier.models.backbones.litv2 import (
    HiLoAttention,
    LITv2,
    average_windows,
)
from mmhier.models.layers import (
    SelfAttention,
    resize_bias_table,
    split_heads,
)


@dataclass
class AttentionMap:
    """Attention of one token to the cells of a grid over the image.

    Attributes:
        name (str): Which attention of the block it is.
        probs (Tensor): (num_heads, rows, columns), float32. 0 where the
            token does not look, summing to 1 over the tokens of each head.
            (A pooled token of HVT fills several cells, each with the token's
            probability; LIT's class token has none; LITv2's padding has some
            beyond the image.)
        cell (int): Side of a cell, in pixels; the first one starts at the top
            left of the image.
    """
    name: str
    probs: Tensor
    cell: int


def attention_maps(backbone: HierarchicalBackbone,
                   images: Tensor,
                   point: tuple[float, float],
                   stage: int = 4,
                   block: int = -1) -> list[AttentionMap]:
    """Attention probabilities of the token that holds a pixel.

    They are computed from the inputs of the block's attention, by the plain
    formula: softmax(q k^T / sqrt(d) + bias).

    - HAT-Net: 'windows' and, computed from what these return, 'pooled'; in
      stage 4 'global';
    - LIT: 'global', in stages 3 and 4;
    - LITv2: 'windows' (Hi-Fi) and 'pooled' (Lo-Fi) in stage 3, 'global' in
      stage 4;
    - HVT: 'global', over the pooled sequence of the block;
    - ACC-ViT: 'dilation 1', 'dilation 2', ...

    Args:
        backbone (HierarchicalBackbone): One of mmhier, in eval mode.
        images (Tensor): (1, 3, H, W), normalized.
        point (tuple[float, float]): x and y of the pixel.
        stage (int): 1 to 4. Defaults to 4.
        block (int): Which of the stage's blocks, from 0; negative ones count
            from the end. Defaults to -1.

    Returns:
        list[AttentionMap]: One for each attention of the block.

    Raises:
        ValueError: If the backbone has no such attention, or the pixel lies
            outside of the image.
    """
    kinds = {
        HATNet: HierarchicalAttention,
        LIT: Attention,
        LITv2: HiLoAttention,
        HVT: HVTBlock,
        ACCViT: AtrousAttention
    }
    kind = next((k for b, k in kinds.items() if isinstance(backbone, b)), None)
    if kind is None:
        raise MMHierError(f'{type(backbone).__name__} is no backbone of mmhier '
                          'whose attention could be shown')
    x, y = point
    height, width = images.shape[2:]
    if not (0 <= x < width and 0 <= y < height):
        raise MMHierError(f'the point ({x:g}, {y:g}) lies outside of the image '
                          f'of {width}x{height} pixels')
    if stage not in (1, 2, 3, 4):
        raise MMHierError(f'stage {stage}: expected 1, 2, 3 or 4')
    modules = [
        m for top in backbone.stage_modules(stage) for m in top.modules()
        if isinstance(m, kind)
    ]
    if not -len(modules) <= block < len(modules):
        raise MMHierError(
            f'stage {stage} of {type(backbone).__name__} has {len(modules)} '
            f'blocks with attention, so there is no block {block}')
    module = modules[block]
    if isinstance(module, HierarchicalAttention):
        return _hatnet_maps(backbone, module, images, point, stage)
    if isinstance(module, Attention):
        return _lit_maps(backbone, module, images, point, stage)
    if isinstance(module, HiLoAttention):
        return _litv2_maps(backbone, module, images, point, stage)
    if isinstance(module, HVTBlock):
        return _hvt_maps(backbone, module, images, point)
    return _accvit_maps(backbone, module, images, point, stage)


@contextmanager
def _recorded(*modules: nn.Module) -> Iterator[dict[nn.Module, tuple]]:
    """Arguments and output of each module's last call, by module."""
    calls: dict[nn.Module, tuple[tuple, Any]] = {}
    handles = [
        m.register_forward_hook(lambda module, inputs, output: calls.update(
            {module: (inputs, output)})) for m in modules
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _run(backbone: nn.Module, images: Tensor, *modules:
         nn.Module) -> dict[nn.Module, tuple]:
    """Arguments and outputs of modules in a forward pass."""
    with _recorded(*modules) as calls:
        backbone(images)
    return calls


def _probabilities(q: Tensor, k: Tensor, bias: Any = 0.) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias): (heads, d), (heads, N, d) -> (heads,
    N), on the CPU."""
    logits = (k.float() @ q.float()[..., None])[..., 0] * q.shape[-1]**-0.5
    return (logits + bias).softmax(-1).cpu()


def _token(point: tuple[float, float], stride: int) -> tuple[int, int]:
    """Row and column of the token that holds a pixel."""
    return int(point[1] // stride), int(point[0] // stride)


def _hatnet_maps(backbone: nn.Module, module: nn.Module, images: Tensor,
                 point: tuple[float, float], stage: int) -> list[AttentionMap]:
    stride = backbone.all_strides[stage - 1]
    row, column = _token(point, stride)
    parts = (module, ) if module.grid_size == 1 else (module, module.q,
                                                      module.kv)
    calls = _run(backbone, images, *parts)
    x, = calls[module][0]
    height, width = x.shape[1:3]
    with torch.no_grad():
        qkv = module.qkv(module.norm(x))
    # (heads, H, W, d) each
    q, k, _ = split_heads(qkv.flatten(1, 2), 3,
                          module.num_heads)[:, 0].unflatten(2, (height, width))
    size = max(height, width) if module.grid_size == 1 else module.grid_size
    top, left = row // size * size, column // size * size
    window = k[:, top:top + size, left:left + size]
    probs = torch.zeros(k.shape[:3])
    probs[:, top:top + size, left:left + size] = _probabilities(
        q[:, row, column], window.flatten(1, 2)).view(window.shape[:3])
    if module.grid_size == 1:
        return [AttentionMap('global', probs, stride)]
    q, = split_heads(calls[module.q][1].flatten(1, 2), 1, module.num_heads)[:,
                                                                            0]
    k, _ = split_heads(calls[module.kv][1], 2, module.num_heads)[:, 0]
    pooled = _probabilities(q[:, row * width + column], k)
    rows = -(-height // module.ds_ratio)
    return [
        AttentionMap('windows', probs, stride),
        AttentionMap('pooled', pooled.unflatten(1, (rows, -1)),
                     stride * module.ds_ratio)
    ]


def _split_sequence(module: SelfAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of a sequence (1, N, C): (heads, N, d) each."""
    qkv = module.qkv(x)[0].unflatten(1, (3, module.num_heads, -1))
    q, k, _ = qkv.permute(1, 2, 0, 3)
    return q, k


def _lit_maps(backbone: nn.Module, module: nn.Module, images: Tensor,
              point: tuple[float, float], stage: int) -> list[AttentionMap]:
    stride = backbone.all_strides[stage - 1]
    row, column = _token(point, stride)
    x, height, width = _run(backbone, images, module)[module][0]
    bias = 0.
    with torch.no_grad():
        q, k = _split_sequence(module, x)
        if module.bias_size is not None:
            table = resize_bias_table(module.relative_position_bias_table,
                                      height, width)
            table = table.t().view(-1, 2 * height - 1, 2 * width - 1)
            # Keys further down and right lie at smaller indices.
            bias = table[:, row:row + height, column:column + width]
            bias = bias.flip(1, 2).flatten(1)
    extra = x.shape[1] - height * width
    probs = _probabilities(q[:, extra + row * width + column], k, bias)
    return [
        AttentionMap('global', probs[:, extra:].unflatten(1, (height, width)),
                     stride)
    ]


def _litv2_maps(backbone: nn.Module, module: nn.Module, images: Tensor,
                point: tuple[float, float], stage: int) -> list[AttentionMap]:
    stride = backbone.all_strides[stage - 1]
    row, column = _token(point, stride)
    x, = _run(backbone, images, module)[module][0]
    size = module.window_size
    maps = []
    with torch.no_grad():
        if module.high_heads:
            x = F.pad(x, (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
            q, k, _ = split_heads(
                module.h_qkv(x).flatten(1, 2), 3,
                module.high_heads)[:, 0].unflatten(2, x.shape[1:3])
            top, left = row // size * size, column // size * size
            window = k[:, top:top + size, left:left + size].flatten(1, 2)
            probs = torch.zeros(k.shape[:3])
            probs[:, top:top + size, left:left + size] = _probabilities(
                q[:, row, column], window).unflatten(1, (size, size))
            maps.append(AttentionMap('windows', probs, stride))
        if module.low_heads:
            pooled = average_windows(x, size)
            q, = split_heads(
                module.l_q(x[:, row, column, None]), 1, module.low_heads)[:, 0]
            k, _ = split_heads(
                module.l_kv(pooled).flatten(1, 2), 2, module.low_heads)[:, 0]
            probs = _probabilities(q[:, 0], k)
            maps.append(
                AttentionMap('pooled' if size > 1 else 'global',
                             probs.unflatten(1, pooled.shape[1:3]),
                             stride * size))
    return maps


def _hvt_maps(backbone: nn.Module, module: nn.Module, images: Tensor,
              point: tuple[float, float]) -> list[AttentionMap]:
    row, column = _token(point, PATCH_SIZE)
    rows, columns = (-(-side // PATCH_SIZE) for side in images.shape[2:])
    layout = TokenLayout(rows, columns, backbone.pool_mode)
    level = 0
    for block in backbone.blocks:
        if block is module:
            break
        level += block.pos_embed is not None
    attention = module.attn
    x, = _run(backbone, images, attention)[attention][0]
    with torch.no_grad():
        q, k = _split_sequence(attention, x)
    index = torch.arange(x.shape[1], device=x.device)[None, :, None]
    token = layout.lift(index, level)[0, 0, row, column]
    probs = _probabilities(q.index_select(1, token)[:, 0], k)
    return [
        AttentionMap('global',
                     layout.lift(probs.t()[None], level)[0], PATCH_SIZE)
    ]


def _accvit_maps(backbone: nn.Module, module: nn.Module, images: Tensor,
                 point: tuple[float, float], stage: int) -> list[AttentionMap]:
    stride = backbone.all_strides[stage - 1]
    token = _token(point, stride)
    calls = _run(backbone, images, *module.branches)
    with torch.no_grad():
        return [
            AttentionMap(
                f'dilation {branch.dilation}',
                _branch_probabilities(branch, calls[branch][0][0], token),
                stride) for branch in module.branches
        ]


def _branch_probabilities(branch: AtrousBranch, x: Tensor,
                          token: tuple[int, int]) -> Tensor:
    """Map (heads, H, W) of a token of the branch's input (1, H, W, C)."""
    dilation = branch.dilation
    x = branch.norm(x[0])
    # Rows and columns of the window, and the token's place in them.
    places, window = [], []
    for position, length in zip(token, x.shape[:2]):
        step, offset = divmod(position, dilation)
        first = step // WINDOW_SIZE * WINDOW_SIZE
        start = first * dilation + offset
        end = min(start + WINDOW_SIZE * dilation, length)
        window.append(slice(start, end, dilation))
        places.append(step - first)
    qkv = branch.qkv(x[tuple(window)]).unflatten(2, (3, branch.num_heads, -1))
    q, k, _ = qkv.permute(2, 3, 0, 1, 4)
    row, column = places
    height, width = qkv.shape[:2]
    table = branch.relative_position_bias_table.t().unflatten(
        1, (2 * WINDOW_SIZE - 1, -1))
    rows = row - torch.arange(height) + WINDOW_SIZE - 1
    columns = column - torch.arange(width) + WINDOW_SIZE - 1
    bias = table[:, rows][:, :, columns]
    probs = _probabilities(q[:, row, column], k.flatten(1, 2), bias.flatten(1))
    out = torch.zeros(len(probs), *x.shape[:2])
    out[(slice(None), *window)] = probs.view(-1, height, width)
    return out
