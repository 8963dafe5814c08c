"""The five families as their papers' code computes them, to measure against.

Same weights, same numbers: maps are (B, C, H, W), projections plain linear
layers or 1x1 convolutions, attention multiplies, softmaxes and multiplies,
position biases are gathered for every pair of tokens in every block. Written
from the papers; for DropPath and dropout of 0, where the authors' code does
nothing either.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from mmhier.models.backbones import HVT, LIT, ACCViT, HATNet, LITv2

Maps = tuple[Tensor, ...]


def attention(q: Tensor,
              k: Tensor,
              v: Tensor,
              bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v over the last two dimensions."""
    logits = (q * q.shape[-1]**-0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1) @ v


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer over (..., C) or a 1x1 convolution of (B, C, H, W)."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight, layer.bias)
    return F.conv2d(x, layer.weight, layer.bias)


def layer_norm(layer: nn.Module, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias,
                        layer.eps)


def mlp(layers: nn.Module, x: Tensor) -> Tensor:
    return project(layers.fc2, F.gelu(project(layers.fc1, x)))


def self_attention(attn: nn.Module,
                   x: Tensor,
                   bias: Tensor | None = None) -> Tensor:
    """(B, N, C) -> (B, N, C)."""
    batch, count, channels = x.shape
    qkv = project(attn.qkv, x).reshape(batch, count, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    out = attention(q, k, v, bias).transpose(1, 2)
    return project(attn.proj, out.reshape(batch, count, channels))


def pair_bias(table: Tensor, height: int, width: int) -> Tensor:
    """(heads, N, N) gathered from (rows, heads) by an index of every pair."""
    y, x = torch.meshgrid(
        torch.arange(height), torch.arange(width), indexing='ij')
    places = torch.stack([y.flatten(), x.flatten()])
    shift = places[:, :, None] - places[:, None, :]
    index = (shift[0] + height - 1) * (2 * width - 1) + shift[1] + width - 1
    bias = table[index.to(table.device).flatten()]
    return bias.unflatten(0, index.shape).permute(2, 0, 1).contiguous()


def to_windows(x: Tensor, size: int, num_heads: int) -> Tensor:
    """(B, C, H, W) -> (B * heads * windows, size * size, C / heads)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, num_heads, channels // num_heads, height // size, size,
                  width // size, size)
    return x.permute(0, 1, 3, 5, 4, 6, 2).reshape(-1, size * size,
                                                  channels // num_heads)


def from_windows(x: Tensor, shape: torch.Size, size: int,
                 num_heads: int) -> Tensor:
    """Inverse of :func:`to_windows`."""
    batch, channels, height, width = shape
    x = x.reshape(batch, num_heads, height // size, width // size, size, size,
                  channels // num_heads)
    return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(shape)


def plain_hatnet(model: HATNet, images: Tensor) -> Maps:
    """HAT-Net, for maps that its windows tile."""

    def norm(layer, x):
        return F.group_norm(x, 1, layer.weight, layer.bias, layer.eps)

    def heads(x, count):
        return x.flatten(2).unflatten(1, (count, -1)).transpose(2, 3)

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, layer.stride,
                        layer.padding, 1, layer.groups)

    def hierarchical_attention(attn, x):
        count, size = attn.num_heads, attn.grid_size
        qkv = project(attn.qkv, norm(attn.norm, x)).chunk(3, 1)
        if size == 1:
            out = attention(*(heads(part, count) for part in qkv))
            return project(attn.proj, out.transpose(2, 3).reshape(x.shape))
        local = attention(*(to_windows(part, size, count) for part in qkv))
        g = norm(attn.grid_norm, x + from_windows(local, x.shape, size, count))
        pooled = norm(attn.ds_norm, F.avg_pool2d(g, attn.ds_ratio))
        k, v = project(attn.kv, pooled).chunk(2, 1)
        out = attention(
            heads(project(attn.q, g), count), heads(k, count), heads(v, count))
        return project(attn.proj, out.transpose(2, 3).reshape(x.shape) + g)

    def inverted_residual(layers, x):
        first, expand, _ = layers.conv1
        x = F.silu(project(expand, norm(first, x)))
        x = F.silu(conv(layers.conv2[0], x))
        return norm(layers.conv3[1], project(layers.conv3[0], x))

    first, stem_norm, _, second = model.patch_embed
    x = conv(second, F.silu(norm(stem_norm, conv(first, images))))
    outs = []
    for stage, blocks in enumerate(model.blocks):
        if stage > 0:
            down = getattr(model, f'ds{stage + 1}')
            x = norm(down.norm, conv(down.conv, x))
        for block in blocks:
            x = x + hierarchical_attention(block.attn, x)
            x = x + inverted_residual(block.conv, x)
        outs.append(x)
    return tuple(outs)


def plain_lit(model: LIT, images: Tensor) -> Maps:
    """LIT, for images that are a multiple of 32."""

    def resized(grid, size, mode):
        return F.interpolate(grid, size, mode=mode, align_corners=False)

    def bias_of(attn, height, width):
        if attn.bias_size is None:
            return None
        table = attn.relative_position_bias_table.t()
        side = 2 * attn.bias_size - 1
        table = resized(
            table.reshape(1, -1, side, side), (2 * height - 1, 2 * width - 1),
            'bicubic')
        return pair_bias(table.flatten(2)[0].t(), height, width)

    x = model.patch_embed.proj(images)
    height, width = x.shape[2:]
    x = layer_norm(model.patch_embed.norm, x.flatten(2).transpose(1, 2))
    outs = []
    for i, stage in enumerate(model.layers):
        if stage.pos_embed is not None:
            side = math.isqrt(stage.pos_embed.shape[1])
            grid = stage.pos_embed.transpose(1, 2).unflatten(2, (side, side))
            grid = resized(grid, (height, width), 'bilinear')
            x = x + grid.flatten(2).transpose(1, 2)
        for block in stage.blocks:
            if block.attn is not None:
                bias = bias_of(block.attn, height, width)
                x = x + self_attention(block.attn, layer_norm(block.norm1, x),
                                       bias)
            x = x + mlp(block.mlp, layer_norm(block.norm2, x))
        out = x
        if hasattr(model, f'norm{i}'):
            out = layer_norm(getattr(model, f'norm{i}'), x)
        outs.append(
            out.transpose(1, 2).unflatten(2, (height, width)).contiguous())
        if stage.downsample is not None:
            down = stage.downsample
            x = x.transpose(1, 2).unflatten(2, (height, width)).contiguous()
            x = F.gelu(down.norm_layer(down.dconv(x)))
            height, width = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)
    return tuple(outs)


def plain_litv2(model: LITv2, images: Tensor) -> Maps:
    """LITv2, for images that are a multiple of 32."""

    def split(x, parts, count):
        x = x.reshape(x.shape[0], x.shape[1], parts, count, -1)
        return x.permute(2, 0, 3, 1, 4)

    def hi_fi(attn, x):
        batch, height, width, channels = x.shape
        size = attn.window_size
        rows, columns = height // size, width // size
        x = x.reshape(batch, rows, size, columns, size, channels)
        x = x.transpose(2, 3).reshape(-1, size * size, channels)
        out = attention(*split(project(attn.h_qkv, x), 3, attn.high_heads))
        out = project(attn.h_proj, out.transpose(1, 2).flatten(2))
        out = out.reshape(batch, rows, columns, size, size, -1)
        return out.transpose(2, 3).reshape(batch, height, width, -1)

    def lo_fi(attn, x):
        pooled = x.permute(0, 3, 1, 2)
        if attn.window_size > 1:
            pooled = F.avg_pool2d(pooled, attn.window_size)
        pooled = pooled.flatten(2).transpose(1, 2)
        q, = split(project(attn.l_q, x).flatten(1, 2), 1, attn.low_heads)
        k, v = split(project(attn.l_kv, pooled), 2, attn.low_heads)
        out = attention(q, k, v).transpose(1, 2)
        return project(attn.l_proj, out.reshape(*x.shape[:3], -1))

    def hilo(attn, x):
        height, width = x.shape[1:3]
        right, bottom = -width % attn.window_size, -height % attn.window_size
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
        outs = []
        if attn.high_heads:
            outs.append(hi_fi(attn, x))
        if attn.low_heads:
            outs.append(lo_fi(attn, x))
        return torch.cat(outs, -1)[:, :height, :width]

    def depthwise_mlp(layers, x):
        x = project(layers.fc1, x).permute(0, 3, 1, 2)
        conv = layers.dwconv
        x = F.conv2d(x, conv.weight, conv.bias, padding=1, groups=len(x[0]))
        return project(layers.fc2, F.gelu(x.permute(0, 2, 3, 1)))

    x = model.patch_embed.proj(images).permute(0, 2, 3, 1)
    x = layer_norm(model.patch_embed.norm, x)
    outs = []
    for i, stage in enumerate(model.layers):
        for block in stage.blocks:
            if block.attn is not None:
                x = x + hilo(block.attn, layer_norm(block.norm1, x))
            x = x + depthwise_mlp(block.mlp, layer_norm(block.norm2, x))
        out = x
        if hasattr(model, f'norm{i}'):
            out = layer_norm(getattr(model, f'norm{i}'), x)
        outs.append(out.permute(0, 3, 1, 2).contiguous())
        if stage.downsample is not None:
            down = stage.downsample
            x = x.permute(0, 3, 1, 2).contiguous()
            x = F.gelu(down.norm_layer(down.dconv(x))).permute(0, 2, 3, 1)
    return tuple(outs)


def plain_hvt(model: HVT, images: Tensor) -> Maps:
    """HVT as it is built, but for its attention, MLPs and norms."""

    class Plain(nn.Module):
        """A block of plain attention, with the same parameters."""

        def __init__(self, block):
            super().__init__()
            self.block = block
            self.pos_embed = block.pos_embed

        def forward(self, x):
            block = self.block
            x = x + self_attention(block.attn, block.norm1(x))
            return x + mlp(block.mlp, block.norm2(x))

    blocks = model.blocks
    try:
        model.blocks = nn.ModuleList(Plain(block) for block in blocks)
        return model.forward_maps(images)
    finally:
        model.blocks = blocks


def plain_accvit(model: ACCViT, images: Tensor) -> Maps:
    """ACC-ViT; maps that dilated windows do not tile are padded, masked."""

    def gated_sum(gate, x, branches):
        count = len(branches)
        logits = F.conv2d(x, gate.weight, gate.bias, groups=x.shape[1])
        gates = logits.unflatten(1, (-1, count)).softmax(2)
        return (gates * torch.stack(branches, 2)).sum(2)

    def conv_norm(layers, x):
        conv, norm = layers
        return norm(
            F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding,
                     conv.dilation, conv.groups))

    def squeeze_excite(se, x):
        mean = x.mean((2, 3), keepdim=True)
        scale = project(se.excite, F.silu(project(se.squeeze, mean)))
        return x * scale.sigmoid()

    def inverted_residual(layers, x):
        shortcut = x
        if layers.stride > 1:
            pool, conv = layers.shortcut
            shortcut = project(conv, F.avg_pool2d(x, 3, layers.stride, 1))
        x = F.gelu(conv_norm(layers.expand[0], layers.pre_norm(x)))
        branches = [
            squeeze_excite(se, F.gelu(conv_norm(branch[0], x)))
            for branch, se in zip(layers.branches, layers.squeeze_excites)
        ]
        x = x[:, :, ::layers.stride, ::layers.stride]
        x = project(layers.project, gated_sum(layers.gate, x, branches))
        return layers.post_norm(shortcut + x)

    def dilated(x, step):
        """Residue classes of (B, C, H, W) as images of a batch."""
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // step, step, width // step,
                      step)
        return x.permute(0, 3, 5, 1, 2,
                         4).reshape(batch * step**2, channels, height // step,
                                    width // step)

    def undilated(x, step, batch):
        _, channels, rows, columns = x.shape
        x = x.reshape(batch, step, step, channels, rows, columns)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels, rows * step,
                                                   columns * step)

    def window_attention(branch, x):
        batch, channels, height, width = x.shape
        step, size, heads = branch.dilation, 7, branch.num_heads
        tokens = branch.norm(x.permute(0, 2, 3, 1))
        qkv = project(branch.qkv, tokens).permute(0, 3, 1, 2)
        right, bottom = -width % (size * step), -height % (size * step)
        qkv = dilated(F.pad(qkv, (0, right, 0, bottom)), step)
        q, k, v = (
            to_windows(part, size, heads).unflatten(0,
                                                    (qkv.shape[0], heads, -1))
            for part in qkv.chunk(3, 1))
        bias = pair_bias(branch.relative_position_bias_table, size, size)
        bias = bias[None, :, None]
        if right or bottom:
            real = F.pad(x.new_ones(1, 1, height, width), (0, right, 0, bottom))
            real = to_windows(dilated(real, step), size, 1).squeeze(-1) > 0
            real |= ~real.any(-1, keepdim=True)
            real = real.unflatten(0, (step**2, -1)).repeat(batch, 1, 1)
            bias = bias.masked_fill(~real[:, None, :, None], float('-inf'))
        out = attention(q, k, v, bias)
        shape = torch.Size((len(qkv), channels, *qkv.shape[2:]))
        out = undilated(from_windows(out, shape, size, heads), step, batch)
        out = out[:, :, :height, :width].permute(0, 2, 3, 1)
        return project(branch.proj, out).permute(0, 3, 1, 2)

    def block_forward(block, x):
        x = inverted_residual(block.conv, x)
        attn = block.attn
        branches = [window_attention(branch, x) for branch in attn.branches]
        out = branches[0]
        if len(branches) > 1:
            out = gated_sum(attn.gate, x, branches)
        x = x + out
        hidden = block.norm(x.permute(0, 2, 3, 1))
        return x + mlp(block.mlp, hidden).permute(0, 3, 1, 2)

    x = F.gelu(conv_norm(model.stem[0], images))
    x = model.stem[2](x)
    outs = []
    for blocks in model.stages:
        for block in blocks:
            x = block_forward(block, x)
        outs.append(x.contiguous())
    return tuple(outs)


PLAIN_FORMS: dict[type, Callable[..., Maps]] = {
    HATNet: plain_hatnet,
    LIT: plain_lit,
    LITv2: plain_litv2,
    HVT: plain_hvt,
    ACCViT: plain_accvit,
}
