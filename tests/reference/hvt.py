"""HVT token by token, from the paper and the fact sheet.

`official` is the authors' forward pass, for 14x14 patches, in plain torch.
Everything else is slow and plain: tokens are kept in lists, one list per row
of patches, attention runs query by query, interpolation is written out.
`weights` maps the authors' names to tensors, and ours to those that the
authors have not.
"""
import torch
import torch.nn.functional as F
from .lit import (
    batch_norm,
    below,
    cubic,
    gelu,
    layer_norm,
    linear,
    resize,
    strided_conv,
)


def official(images, weights: dict, arch: dict, last: int):
    """Tokens behind block `last` (not pooled by it), (B, L, C), normed."""
    dims, width = arch['embed_dims'], arch['pool_block_width']
    x = F.conv2d(
        images,
        weights['patch_embed.proj.weight'],
        weights['patch_embed.proj.bias'],
        stride=16)
    x = x.flatten(2).transpose(1, 2) + weights['pos_embed']

    def norm(x, prefix):
        return F.layer_norm(x, (dims, ), weights[f'{prefix}.weight'],
                            weights[f'{prefix}.bias'], 1e-6)

    def project(x, prefix):
        return F.linear(x, weights[f'{prefix}.weight'],
                        weights[f'{prefix}.bias'])

    for i in range(last + 1):
        name = f'blocks.{i}'
        qkv = project(norm(x, f'{name}.norm1'), f'{name}.attn.qkv')
        qkv = qkv.unflatten(2, (3, arch['num_heads'], -1))
        out = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        out = out.transpose(1, 2).flatten(2)
        x = x + project(out, f'{name}.attn.proj')
        hidden = project(norm(x, f'{name}.norm2'), f'{name}.mlp.fc1')
        x = x + project(F.gelu(hidden), f'{name}.mlp.fc2')
        if i < last and width > 0 and i % width == 0:
            x = F.max_pool1d(x.transpose(1, 2), 3, 2).transpose(1, 2)
            x = x + weights[f'{name}.pos_embed']
    return norm(x, 'norm' if last == arch['depth'] - 1 else f'norm_{last}')


def pool_row(row: list, whole_windows: bool = False) -> list:
    """Maxima of three neighbours, every second; the last may be cut off."""
    pooled = []
    for start in range(0, len(row), 2):
        window = row[start:start + 3]
        if len(window) == 3 or not whole_windows:
            pooled.append(torch.stack(window).amax(0))
    return pooled


def pool_2d(rows: list) -> list:
    """3x3 maxima around every second row and column, cut off at borders."""
    return [[
        torch.stack([
            rows[i][j] for i in range(max(y - 1, 0), min(y + 2, len(rows)))
            for j in range(max(x - 1, 0), min(x + 2, len(rows[0])))
        ]).amax(0) for x in range(0, len(rows[0]), 2)
    ] for y in range(0, len(rows), 2)]


def pool(rows: list, pool_mode: str, trained: bool) -> list:
    if pool_mode == '2d':
        return pool_2d(rows)
    return [pool_row(row, whole_windows=trained) for row in rows]


def lift(rows: list, level: int, height: int, width: int, pool_mode: str):
    """Map (B, C, height, width) of tokens that were pooled `level` times.

    Each value is repeated 2^level times, the last to the end of its row;
    `rows` of the trained grid are one row of all patches.
    """
    repeat = 2**level
    filled = []
    for row in rows:
        long = [token for token in row for _ in range(repeat)]
        target = width * height // len(rows) if pool_mode == '1d' else width
        filled += (long + row[-1:] * target)[:target]
        if pool_mode == '2d':
            filled += filled[-width:] * (repeat - 1)
    filled = filled[:height * width]
    return torch.stack(filled, -1).unflatten(-1, (height, width))


def positions(table, level: int, height: int, width: int, pool_mode: str,
              trained: bool) -> list:
    """Rows of embeddings for the tokens of a grid, from (1, N, C)."""
    if trained:
        return [list(table[0])]
    grid = lift([list(table[0])], level, 14, 14, '1d')
    grid = resize(grid, height, width, cubic)
    step = 2**level
    return [[grid[:, y, x] for x in range(0, width, step)]
            for y in range(0, height, step if pool_mode == '2d' else 1)]


def attention(tokens, w: dict, num_heads: int):
    """(B, N, C), query by query."""
    images = []
    for image in tokens:
        q, k, v = linear(image, below(w, 'qkv.')).chunk(3, 1)
        heads = []
        for i in range(num_heads):
            size = q.shape[1] // num_heads
            own = slice(i * size, (i + 1) * size)
            outs = []
            for query in q[:, own]:
                score = (k[:, own] * query).sum(1) / size**0.5
                weight = (score - score.max()).exp()
                outs.append((weight / weight.sum()) @ v[:, own])
            heads.append(torch.stack(outs))
        images.append(torch.cat(heads, 1))
    return linear(torch.stack(images), below(w, 'proj.'))


def block(rows: list, w: dict, num_heads: int) -> list:
    x = torch.stack([token for row in rows for token in row], 1)
    x = x + attention(
        layer_norm(x, below(w, 'norm1.'), 1e-6), below(w, 'attn.'), num_heads)
    hidden = linear(
        layer_norm(x, below(w, 'norm2.'), 1e-6), below(w, 'mlp.fc1.'))
    tokens = list((x + linear(gelu(hidden), below(w, 'mlp.fc2.'))).unbind(1))
    return [[tokens.pop(0) for _ in row] for row in rows]


def deconvolution(x, w: dict):
    """Every pixel becomes 2x2."""
    cells = torch.einsum('bcyx,coij->boyixj', x, w['weight'])
    return cells.flatten(4).flatten(2, 3) + w['bias'][:, None, None]


def pyramid(x, w: dict, stride: int, image_size: tuple, training: bool):
    """A stride-16 map at another stride."""

    def cut(x, stride):
        height, width = (-(-size // stride) for size in image_size)
        return x[:, :, :height, :width]

    if stride == 16:
        return x
    if stride == 32:
        return torch.stack([
            torch.stack([
                x[:, :, i:i + 2, j:j + 2].amax((2, 3))
                for j in range(0, x.shape[3], 2)
            ], -1) for i in range(0, x.shape[2], 2)
        ], -2)
    x = cut(deconvolution(x, below(w, 'up.0.')), 8)
    if stride == 4:
        x = gelu(batch_norm(x, below(w, 'up.1.0.'), training))
        x = cut(deconvolution(x, below(w, 'up.1.2.')), 4)
    return x


def trunk(images, weights: dict, arch: dict, pool_mode: str):
    """Yields, per block, its rows of tokens before pooling, and their level;
    in the end the rows behind the last block, pooled."""
    x = strided_conv(images, below(weights, 'patch_embed.proj.'), 16)
    height, width = x.shape[2:]
    trained = pool_mode == '1d' and (height, width) == (14, 14)
    rows = [[x[:, :, i, j] for j in range(width)] for i in range(height)]
    if trained:
        rows = [sum(rows, [])]

    def add_positions(rows, table, level):
        embeddings = positions(table, level, height, width, pool_mode, trained)
        assert [len(r) for r in rows] == [len(r) for r in embeddings]
        return [[t + p for t, p in zip(*pair)]
                for pair in zip(rows, embeddings)]

    rows = add_positions(rows, weights['pos_embed'], 0)
    level = 0
    for i in range(arch['depth']):
        w = below(weights, f'blocks.{i}.')
        rows = block(rows, w, arch['num_heads'])
        yield rows, level
        pools = arch['pool_block_width']
        if pool_mode != 'none' and pools and i % pools == 0:
            if 'pos_embed' not in w:
                return
            level += 1
            rows = pool(rows, pool_mode, trained)
            rows = add_positions(rows, w['pos_embed'], level)
    yield rows, level


def backbone(images,
             weights: dict,
             arch: dict,
             pool_mode: str,
             taps: tuple,
             training: bool = False) -> list:
    """The maps of strides 4, 8, 16, 32."""
    height, width = (-(-size // 16) for size in images.shape[2:])
    maps = {}
    for i, (rows, level) in enumerate(trunk(images, weights, arch, pool_mode)):
        if i in taps:
            norm = 'norm.' if i == arch['depth'] - 1 else f'norm_{i}.'
            norm = below(weights, norm)
            rows = [[layer_norm(t, norm, 1e-6) for t in row] for row in rows]
            maps[i] = lift(rows, level, height, width, pool_mode)
    return [
        pyramid(maps[tap], below(weights, f'pyramid.stride{stride}.'), stride,
                images.shape[2:], training)
        for tap, stride in zip(taps, (4, 8, 16, 32))
    ]


def pooled_features(images, weights: dict, arch: dict, pool_mode: str):
    """(B, C): the mean of the normed tokens in the end."""
    *_, (rows, _) = trunk(images, weights, arch, pool_mode)
    tokens = torch.stack([token for row in rows for token in row], 1)
    return layer_norm(tokens, below(weights, 'norm.'), 1e-6).mean(1)
