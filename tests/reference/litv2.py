"""LITv2 token by token, from the paper and the fact sheet.

Slow and plain: attention runs query by query, a token off the map is read as
zero. `weights` maps the authors' names to tensors; `official_shapes` lists
those names. Attention works on (B, H, W, C), the rest on (B, C, H, W).
"""
import torch
from tests.reference import lit
from tests.reference.lit import below, gelu, linear

EPS = 1e-5


def read(x, row: int, column: int):
    """Token (B, C) of (B, H, W, C), zero off the map."""
    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
        return x[:, row, column]
    return torch.zeros_like(x[:, 0, 0])


def window(x, row: int, column: int, size: int):
    """Tokens (B, size * size, C) of the window that holds a position."""
    top, left = row // size * size, column // size * size
    return torch.stack(
        [read(x, top + i, left + j) for i in range(size) for j in range(size)],
        1)


def attend(query, keys, values, num_heads: int):
    """(B, C) over (B, N, C) -> (B, C), one head after the other."""
    head_dim = query.shape[1] // num_heads
    outs = []
    for head in range(num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        logits = (keys[..., part] @ query[:, part, None])[..., 0]
        logits = logits * head_dim**-0.5
        share = torch.exp(logits - logits.amax(1, keepdim=True))
        share = share / share.sum(1, keepdim=True)
        outs.append((share[..., None] * values[..., part]).sum(1))
    return torch.cat(outs, -1)


def hilo(x, w: dict, num_heads: int, alpha: float, size: int):
    """HiLo attention of (B, H, W, C), one query after the other."""
    low_heads = num_heads if size == 1 else int(num_heads * alpha)
    high_heads = num_heads - low_heads
    rows, columns = x.shape[1:3]
    cells = [(row, column) for row in range(0, rows, size)
             for column in range(0, columns, size)]
    if low_heads:
        pooled = torch.stack([window(x, *c, size).sum(1) for c in cells], 1)
        pooled = pooled / size**2
        low_keys, low_values = linear(pooled, below(w, 'l_kv.')).chunk(2, -1)
    out = []
    for row in range(rows):
        for column in range(columns):
            token, parts = x[:, row, column], []
            if high_heads:
                q = linear(token, below(w, 'h_qkv.')).chunk(3, -1)[0]
                near = linear(window(x, row, column, size), below(w, 'h_qkv.'))
                keys, values = near.chunk(3, -1)[1:]
                high = attend(q, keys, values, high_heads)
                parts.append(linear(high, below(w, 'h_proj.')))
            if low_heads:
                q = linear(token, below(w, 'l_q.'))
                low = attend(q, low_keys, low_values, low_heads)
                parts.append(linear(low, below(w, 'l_proj.')))
            out.append(torch.cat(parts, -1))
    return torch.stack(out, 1).view(x.shape)


def depthwise_conv(x, w: dict):
    """3x3, of (B, H, W, C), zero outside."""
    rows, columns = x.shape[1:3]
    out = []
    for row in range(rows):
        for column in range(columns):
            out.append(w['bias'] + sum(
                read(x, row + i - 1, column + j - 1) * w['weight'][:, 0, i, j]
                for i in range(3) for j in range(3)))
    return torch.stack(out, 1).view(x.shape)


def block(x, w: dict, num_heads: int, alpha: float, size: int):
    """(B, H, W, C) -> (B, H, W, C)."""
    if num_heads:
        normed = lit.layer_norm(x, below(w, 'norm1.'), EPS)
        x = x + hilo(normed, below(w, 'attn.'), num_heads, alpha, size)
    hidden = lit.layer_norm(x, below(w, 'norm2.'), EPS)
    hidden = linear(hidden, below(w, 'mlp.fc1.'))
    hidden = gelu(depthwise_conv(hidden, below(w, 'mlp.dwconv.dwconv.')))
    return x + linear(hidden, below(w, 'mlp.fc2.'))


def litv2(x,
          w: dict,
          arch: dict,
          alpha: float,
          size: int,
          training: bool = False,
          ceil_mode: bool = True) -> tuple:
    """The four maps, normed where `w` has norm0 .. norm3, and the
    classifier's features if it has norm."""
    maps = []
    heads = (0, 0, *arch['num_heads'])
    x = lit.patch_embed(x, below(w, 'patch_embed.')).permute(0, 2, 3, 1)
    for stage in range(4):
        for i in range(arch['depths'][stage]):
            x = block(x, below(w, f'layers.{stage}.blocks.{i}.'), heads[stage],
                      alpha, (0, 0, size, 1)[stage])
        out = x
        if f'norm{stage}.weight' in w:
            out = lit.layer_norm(x, below(w, f'norm{stage}.'), EPS)
        maps.append(out.permute(0, 3, 1, 2))
        if stage < 3:
            x = lit.deformable_merging(
                x.permute(0, 3, 1, 2), below(w, f'layers.{stage}.downsample.'),
                training, ceil_mode).permute(0, 2, 3, 1)
    mean = None
    if 'norm.weight' in w:
        mean = lit.layer_norm(x, below(w, 'norm.'), EPS).mean((1, 2))
    return maps, mean


def _linear_shapes(name: str, before: int, after: int) -> dict:
    return {f'{name}.weight': [after, before], f'{name}.bias': [after]}


def _block_shapes(channels: int, num_heads: int, low_heads: int) -> dict:
    hidden = 4 * channels
    shapes = {
        'norm2.weight': [channels],
        'norm2.bias': [channels],
        **_linear_shapes('mlp.fc1', channels, hidden),
        'mlp.dwconv.dwconv.weight': [hidden, 1, 3, 3],
        'mlp.dwconv.dwconv.bias': [hidden],
        **_linear_shapes('mlp.fc2', hidden, channels),
    }
    if num_heads:
        shapes['norm1.weight'] = shapes['norm1.bias'] = [channels]
        low = channels // num_heads * low_heads
        high = channels - low
        if low:
            shapes.update(_linear_shapes('attn.l_q', channels, low))
            shapes.update(_linear_shapes('attn.l_kv', channels, 2 * low))
            shapes.update(_linear_shapes('attn.l_proj', low, low))
        if high:
            shapes.update(_linear_shapes('attn.h_qkv', channels, 3 * high))
            shapes.update(_linear_shapes('attn.h_proj', high, high))
    return shapes


def official_shapes(arch: dict,
                    alpha: float = 0.9,
                    out_norms: tuple = (),
                    num_classes: int = 0) -> dict:
    """Names and shapes of the dense code, or of the classifier."""
    dims, heads = arch['embed_dims'], (0, 0, *arch['num_heads'])
    parts = {'patch_embed': lit.patch_embed_shapes(dims[0])}
    for stage in range(4):
        low_heads = heads[3] if stage == 3 else int(heads[2] * alpha)
        for i in range(arch['depths'][stage]):
            parts[f'layers.{stage}.blocks.{i}'] = _block_shapes(
                dims[stage], heads[stage], low_heads)
        if stage < 3:
            parts[f'layers.{stage}.downsample'] = lit.merging_shapes(
                dims[stage], dims[stage + 1])
        if stage in out_norms:
            parts[f'norm{stage}'] = dict(
                weight=[dims[stage]], bias=[dims[stage]])
    if num_classes:
        parts['norm'] = dict(weight=[dims[3]], bias=[dims[3]])
        parts['head'] = dict(weight=[num_classes, dims[3]], bias=[num_classes])
    return {
        f'{prefix}.{name}': shape
        for prefix, part in parts.items()
        for name, shape in part.items()
    }
