"""HAT-Net's hierarchical attention, one query at a time.

Written from the paper (arXiv 2106.03180, section 3). Maps are (C, H, W) of one
image; weights are taken from a state dict by their official names.
"""
import torch


def global_norm(x, weight, bias, eps=1e-6):
    """Normalise over the whole map, then scale each channel."""
    x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + eps)
    return x * weight[:, None, None] + bias[:, None, None]


def project(x, weight, bias):
    """1x1 convolution."""
    return torch.einsum('oi,ihw->ohw', weight.flatten(1), x) + \
        bias[:, None, None]


def attend_one(query, keys, values):
    """One query (d,) over lists of keys and values (d,)."""
    logits = torch.stack([(query * key).sum() for key in keys])
    weights = (logits * query.numel()**-0.5).softmax(0)
    return sum(w * v for w, v in zip(weights, values))


def attend_map(q, k, v, num_heads, positions_of):
    """Each position of q attends to the positions that `positions_of` lists.

    q is (C, H, W), k and v are (C, h, w); heads are slices of channels.
    """
    channels, height, width = q.shape
    dim = channels // num_heads
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            seen = positions_of(y, x)
            heads = []
            for h in range(num_heads):
                part = slice(h * dim, (h + 1) * dim)
                heads.append(
                    attend_one(q[part, y, x], [k[part, i, j] for i, j in seen],
                               [v[part, i, j] for i, j in seen]))
            row.append(torch.cat(heads))
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)


def hierarchical_attention(x, p, num_heads, grid_size, ds_ratio):
    """The attention of one block on (C, H, W), without its residual.

    Args:
        x: The map.
        p: Parameters by name ('norm.weight', 'qkv.weight', ...).
        num_heads: Number of heads.
        grid_size: Window side; a window at the right or bottom border holds
            only the positions that exist.
        ds_ratio: Side of the cells averaged into one global key.
    """
    channels, height, width = x.shape
    u = global_norm(x, p['norm.weight'], p['norm.bias'])
    q, k, v = project(u, p['qkv.weight'], p['qkv.bias']).split(channels)
    everywhere = [(i, j) for i in range(height) for j in range(width)]
    if grid_size == 1:
        local = attend_map(q, k, v, num_heads, lambda y, x: everywhere)
        return project(local, p['proj.weight'], p['proj.bias'])

    def same_window(y, x):
        return [(i, j) for i, j in everywhere if i // grid_size == y //
                grid_size and j // grid_size == x // grid_size]

    local = attend_map(q, k, v, num_heads, same_window)
    g = global_norm(x + local, p['grid_norm.weight'], p['grid_norm.bias'])
    cells = []
    for top in range(0, height, ds_ratio):
        cells.append(
            torch.stack([
                g[:, top:top + ds_ratio, left:left + ds_ratio].mean((1, 2))
                for left in range(0, width, ds_ratio)
            ], 1))
    pooled = global_norm(
        torch.stack(cells, 1), p['ds_norm.weight'], p['ds_norm.bias'])
    k, v = project(pooled, p['kv.weight'], p['kv.bias']).split(channels)
    everything = [(i, j) for i in range(k.shape[1]) for j in range(k.shape[2])]
    q = project(g, p['q.weight'], p['q.bias'])
    out = attend_map(q, k, v, num_heads, lambda y, x: everything)
    return project(out + g, p['proj.weight'], p['proj.bias'])
