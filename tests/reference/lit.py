"""LIT token by token, from the paper and the fact sheet.

Slow and plain: taps are sampled one by one, attention runs query by query,
interpolation is written out. `weights` maps the authors' names to tensors;
`official_shapes_*` list those names. Maps are (B, C, H, W).
"""
import math

import torch


def below(weights: dict, prefix: str) -> dict:
    """Entries whose names start with `prefix`, without it."""
    return {
        name[len(prefix):]: value
        for name, value in weights.items() if name.startswith(prefix)
    }


def linear(x, w: dict):
    """Over the last dimension."""
    return torch.einsum('...i,oi->...o', x, w['weight']) + w['bias']


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def layer_norm(x, w: dict, eps: float):
    """Over the last dimension."""
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * w['weight'] + w['bias']


def batch_norm(x, w: dict, training: bool):
    mean, variance = w['running_mean'], w['running_var']
    if training:
        mean = x.mean((0, 2, 3))
        variance = x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return x * w['weight'][:, None, None] + w['bias'][:, None, None]


def tokens_of(x):
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens, height: int, width: int):
    """(B, H * W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def strided_conv(x, w: dict, size: int):
    """size x size convolution of that stride; pixels off the map are zero."""
    rows = []
    for top in range(0, x.shape[2], size):
        row = []
        for left in range(0, x.shape[3], size):
            cell = x[:, :, top:top + size, left:left + size]
            kernel = w['weight'][:, :, :cell.shape[2], :cell.shape[3]]
            row.append(torch.einsum('bcij,ocij->bo', cell, kernel))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2) + w['bias'][:, None, None]


def sample(image, y, x):
    """Channels of (C, H, W) at the point (y, x), bilinear, zero outside."""
    value = torch.zeros_like(image[:, 0, 0])
    top, left = math.floor(y.item()), math.floor(x.item())
    for row, wy in ((top, top + 1 - y), (top + 1, y - top)):
        for column, wx in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value = value + wy * wx * image[:, row, column]
    return value


def deformable_merging(x,
                       w: dict,
                       training: bool = False,
                       ceil_mode: bool = True):
    """Deformable convolution, BN, GELU: every 2x2 cell becomes one token,
    partial ones only in ceil_mode."""
    offset = strided_conv(x, below(w, 'dconv.conv_offset.'), 2)
    if not ceil_mode:
        offset = offset[:, :, :x.shape[2] // 2, :x.shape[3] // 2]
    weight = w['dconv.weight']
    images = []
    for image, shift in zip(x, offset):
        rows = []
        for row in range(offset.shape[2]):
            for column in range(offset.shape[3]):
                total = w['dconv.bias']
                for tap in range(4):
                    i, j = divmod(tap, 2)
                    value = sample(
                        image, 2 * row + i + shift[2 * tap, row, column],
                        2 * column + j + shift[2 * tap + 1, row, column])
                    total = total + weight[:, :, i, j] @ value
                rows.append(total)
        images.append(torch.stack(rows, -1).unflatten(1, offset.shape[2:]))
    x = batch_norm(torch.stack(images), below(w, 'norm_layer.'), training)
    return gelu(x)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.


def hat(distance: float) -> float:
    return max(0., 1 - abs(distance))


def resize(x, height: int, width: int, kernel):
    """(C, H, W) -> (C, height, width); pixel centres at half integers, the
    border repeated."""
    matrices = []
    for old, new in ((x.shape[1], height), (x.shape[2], width)):
        matrix = x.new_zeros(new, old)
        for target in range(new):
            source = (target + 0.5) * old / new - 0.5
            for tap in range(math.floor(source) - 1, math.floor(source) + 3):
                nearest = min(max(tap, 0), old - 1)
                matrix[target, nearest] += kernel(source - tap)
        matrices.append(matrix)
    return torch.einsum('yh,chw,xw->cyx', matrices[0], x, matrices[1])


def resized_table(table, height: int, width: int):
    """(rows, heads) of a square grid -> (2 * height - 1, 2 * width - 1, heads)
    """
    side = math.isqrt(len(table))
    grid = table.t().unflatten(1, (side, side))
    if (2 * height - 1, 2 * width - 1) != (side, side):
        grid = resize(grid, 2 * height - 1, 2 * width - 1, cubic)
    return grid.permute(1, 2, 0)


def resized_pos_embed(pos_embed, height: int, width: int):
    """(1, side * side, C) -> (height * width, C)."""
    side = math.isqrt(pos_embed.shape[1])
    grid = pos_embed[0].t().unflatten(1, (side, side))
    if (height, width) != (side, side):
        grid = resize(grid, height, width, hat)
    return grid.flatten(1).t()


def attention(tokens, w: dict, num_heads: int, grid: tuple):
    """Self-attention of (B, N, C), one query of one head after the other."""
    height, width = grid
    batch, count, channels = tokens.shape
    head_dim = channels // num_heads
    qkv = linear(tokens, below(w, 'qkv.'))
    table = w.get('relative_position_bias_table')
    if table is not None:
        table = resized_table(table, height, width)
    heads = []
    for head in range(num_heads):
        q, k, v = (
            qkv[..., part * channels + head * head_dim:][..., :head_dim]
            for part in range(3))
        rows = []
        for query in range(count):
            logits = (k @ (q[:, query, :, None]))[..., 0] * head_dim**-0.5
            if table is not None:
                y, x = divmod(query, width)
                logits = logits + torch.stack([
                    table[y - key // width + height - 1,
                          x - key % width + width - 1, head]
                    for key in range(count)
                ])
            share = torch.exp(logits - logits.amax(1, keepdim=True))
            share = share / share.sum(1, keepdim=True)
            rows.append((share[..., None] * v).sum(1))
        heads.append(torch.stack(rows, 1))
    return linear(torch.cat(heads, -1), below(w, 'proj.'))


def block(tokens, w: dict, num_heads: int, grid: tuple, eps: float):
    if num_heads:
        normed = layer_norm(tokens, below(w, 'norm1.'), eps)
        tokens = tokens + attention(normed, below(w, 'attn.'), num_heads, grid)
    hidden = layer_norm(tokens, below(w, 'norm2.'), eps)
    hidden = gelu(linear(hidden, below(w, 'mlp.fc1.')))
    return tokens + linear(hidden, below(w, 'mlp.fc2.'))


def patch_embed(x, w: dict):
    x = strided_conv(x, below(w, 'proj.'), 4)
    return layer_norm(x.permute(0, 2, 3, 1), below(w, 'norm.'),
                      1e-5).permute(0, 3, 1, 2)


def tiny(x,
         w: dict,
         arch: dict,
         training: bool = False,
         ceil_mode: bool = True) -> tuple:
    """The four maps of LIT-Ti, and the class token if `w` has one."""
    if not ceil_mode:
        x = x[:, :, :x.shape[2] // 4 * 4, :x.shape[3] // 4 * 4]
    maps, cls_token = [], None
    heads = (0, 0, *arch['num_heads'])
    for stage in range(4):
        part = below(w, f'patch_embed{stage + 1}.')
        x = deformable_merging(x, part, training,
                               ceil_mode) if stage else patch_embed(x, part)
        grid = x.shape[2:]
        pos_embed = w[f'pos_embed{stage + 1}']
        first = pos_embed[:, :stage == 3]
        tokens = tokens_of(x) + resized_pos_embed(pos_embed[:, stage == 3:], *
                                                  grid)
        if stage == 3 and 'cls_token' in w:
            cls_token = (w['cls_token'] + first).expand(len(x), -1, -1)
            tokens = torch.cat((cls_token, tokens), 1)
        for i in range(arch['depths'][stage]):
            tokens = block(tokens, below(w, f'block{stage + 1}.{i}.'),
                           heads[stage], grid, arch['norm_eps'])
        if cls_token is not None:
            cls_token, tokens = tokens[:, 0], tokens[:, 1:]
        x = map_of(tokens, *grid)
        maps.append(x)
    if cls_token is not None:
        cls_token = layer_norm(cls_token, below(w, 'norm.'), arch['norm_eps'])
    return maps, cls_token


def swin_like(x,
              w: dict,
              arch: dict,
              training: bool = False,
              ceil_mode: bool = True) -> tuple:
    """The four maps of LIT-S/M/B, normed where `w` has norm0 .. norm3, and
    the classifier's features if it has norm."""
    maps = []
    heads = (0, 0, *arch['num_heads'])
    x = patch_embed(x, below(w, 'patch_embed.'))
    for stage in range(4):
        grid = x.shape[2:]
        tokens = tokens_of(x)
        for i in range(arch['depths'][stage]):
            tokens = block(tokens, below(w, f'layers.{stage}.blocks.{i}.'),
                           heads[stage], grid, arch['norm_eps'])
        out = tokens
        if f'norm{stage}.weight' in w:
            out = layer_norm(tokens, below(w, f'norm{stage}.'),
                             arch['norm_eps'])
        maps.append(map_of(out, *grid))
        if stage < 3:
            x = deformable_merging(
                map_of(tokens, *grid), below(w, f'layers.{stage}.downsample.'),
                training, ceil_mode)
    mean = None
    if 'norm.weight' in w:
        mean = layer_norm(tokens, below(w, 'norm.'), arch['norm_eps']).mean(1)
    return maps, mean


def _block_shapes(channels: int, ratio: int, heads: int, rows: int) -> dict:
    hidden = ratio * channels
    shapes = {}
    if heads:
        shapes['norm1.weight'] = shapes['norm1.bias'] = [channels]
        if rows:
            shapes['attn.relative_position_bias_table'] = [rows, heads]
        shapes['attn.qkv.weight'] = [3 * channels, channels]
        shapes['attn.qkv.bias'] = [3 * channels]
        shapes['attn.proj.weight'] = [channels, channels]
        shapes['attn.proj.bias'] = [channels]
    shapes['norm2.weight'] = shapes['norm2.bias'] = [channels]
    shapes['mlp.fc1.weight'] = [hidden, channels]
    shapes['mlp.fc1.bias'] = [hidden]
    shapes['mlp.fc2.weight'] = [channels, hidden]
    shapes['mlp.fc2.bias'] = [channels]
    return shapes


def merging_shapes(before: int, after: int) -> dict:
    shapes = {
        'dconv.weight': [after, before, 2, 2],
        'dconv.bias': [after],
        'dconv.conv_offset.weight': [8, before, 2, 2],
        'dconv.conv_offset.bias': [8],
        'norm_layer.num_batches_tracked': [],
    }
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        shapes[f'norm_layer.{name}'] = [after]
    return shapes


def patch_embed_shapes(channels: int) -> dict:
    return {
        'proj.weight': [channels, 3, 4, 4],
        'proj.bias': [channels],
        'norm.weight': [channels],
        'norm.bias': [channels],
    }


def official_shapes_tiny(arch: dict, num_classes: int = 0) -> dict:
    """Names and shapes of LIT-Ti's dense code, or of its classifier."""
    dims, shapes = arch['embed_dims'], {}
    for stage in range(4):
        count = (3136, 784, 196, 50)[stage]
        shapes[f'pos_embed{stage + 1}'] = [1, count, dims[stage]]
        parts = {f'patch_embed{stage + 1}': patch_embed_shapes(dims[0])}
        if stage:
            parts = {
                f'patch_embed{stage + 1}':
                merging_shapes(dims[stage - 1], dims[stage])
            }
        for i in range(arch['depths'][stage]):
            parts[f'block{stage + 1}.{i}'] = _block_shapes(
                dims[stage], arch['mlp_ratios'][stage],
                (0, 0, *arch['num_heads'])[stage], 0)
        for prefix, part in parts.items():
            shapes.update({f'{prefix}.{n}': s for n, s in part.items()})
    if num_classes:
        shapes['cls_token'] = [1, 1, dims[3]]
        shapes['norm.weight'] = shapes['norm.bias'] = [dims[3]]
        shapes['head.weight'] = [num_classes, dims[3]]
        shapes['head.bias'] = [num_classes]
    return shapes


def official_shapes_swin_like(arch: dict,
                              grids: tuple,
                              out_norms: tuple = (),
                              num_classes: int = 0) -> dict:
    """Names and shapes of LIT-S/M/B's dense code, or of their classifiers.

    `grids` are the sides of the grids of the bias tables of stages 3 and 4.
    """
    dims, shapes = arch['embed_dims'], {}
    parts = {'patch_embed': patch_embed_shapes(dims[0])}
    for stage in range(4):
        side = (0, 0, *grids)[stage]
        for i in range(arch['depths'][stage]):
            part = _block_shapes(dims[stage], arch['mlp_ratios'][stage],
                                 (0, 0, *arch['num_heads'])[stage],
                                 (2 * side - 1)**2)
            if side and num_classes:
                part['attn.relative_position_index'] = [side**2, side**2]
            parts[f'layers.{stage}.blocks.{i}'] = part
        if stage < 3:
            parts[f'layers.{stage}.downsample'] = merging_shapes(
                dims[stage], dims[stage + 1])
        if stage in out_norms:
            parts[f'norm{stage}'] = dict(
                weight=[dims[stage]], bias=[dims[stage]])
    if num_classes:
        parts['norm'] = dict(weight=[dims[3]], bias=[dims[3]])
        parts['head'] = dict(weight=[num_classes, dims[3]], bias=[num_classes])
    for prefix, part in parts.items():
        shapes.update({f'{prefix}.{n}': s for n, s in part.items()})
    return shapes
