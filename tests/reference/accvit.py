"""ACC-ViT pixel by pixel, from the papers' description and the fact sheet.

Slow and plain: windows are collected pixel by pixel and hold real pixels
only, convolutions are sums of shifted maps, norms are written out. Maps are
(B, C, H, W); `weights` maps names to tensors, as named by the backbone.
"""
import torch

WINDOW = 7


def below(weights: dict, prefix: str) -> dict:
    """Entries whose names start with `prefix`, without it."""
    return {
        name[len(prefix):]: value
        for name, value in weights.items() if name.startswith(prefix)
    }


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def silu(x):
    return x / (1 + torch.exp(-x))


def linear(x, w: dict):
    """Over the last dimension."""
    return torch.einsum('...i,oi->...o', x, w['weight']) + w['bias']


def layer_norm(x, w: dict):
    """Over the last dimension."""
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * w['weight'] + w['bias']


def batch_norm(x, w: dict, training: bool):
    mean, variance = w['running_mean'], w['running_var']
    if training:
        mean = x.mean((0, 2, 3))
        variance = x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-3).sqrt()
    return x * w['weight'][:, None, None] + w['bias'][:, None, None]


def taps(x, stride: int, dilation: int):
    """Yield (i, j, map) for the nine taps of a 3x3 convolution."""
    height, width = x.shape[2:]
    padded = x.new_zeros(*x.shape[:2], height + 2 * dilation,
                         width + 2 * dilation)
    padded[:, :, dilation:-dilation, dilation:-dilation] = x
    for i in range(3):
        for j in range(3):
            shifted = padded[:, :, i * dilation:i * dilation + height,
                             j * dilation:j * dilation + width]
            yield i, j, shifted[:, :, ::stride, ::stride]


def conv3x3(x, weight, stride: int = 1):
    return sum(
        torch.einsum('bchw,oc->bohw', tap, weight[:, :, i, j])
        for i, j, tap in taps(x, stride, 1))


def depthwise3x3(x, weight, stride: int, dilation: int):
    return sum(tap * weight[:, 0, i, j, None, None]
               for i, j, tap in taps(x, stride, dilation))


def average3x3(x, stride: int):
    """The zeros around the map count."""
    return sum(tap for _, _, tap in taps(x, stride, 1)) / 9


def conv1x1(x, weight, bias=None):
    x = torch.einsum('bchw,oc->bohw', x, weight[:, :, 0, 0])
    return x if bias is None else x + bias[:, None, None]


def gated_sum(x, branches: list, w: dict):
    """Softmax over branches of one logit per channel, branch and pixel."""
    count = len(branches)
    channels = []
    for c in range(x.shape[1]):
        scores = [
            torch.exp(x[:, c] * w['weight'][c * count + k, 0, 0, 0] +
                      w['bias'][c * count + k]) for k in range(count)
        ]
        total = sum(scores)
        channels.append(
            sum(score / total * branch[:, c]
                for score, branch in zip(scores, branches)))
    return torch.stack(channels, 1)


def squeeze_excite(x, w: dict):
    mean = x.mean((2, 3), keepdim=True)
    hidden = silu(conv1x1(mean, w['squeeze.weight'], w['squeeze.bias']))
    scale = conv1x1(hidden, w['excite.weight'], w['excite.bias'])
    return x / (1 + torch.exp(-scale))


def atrous_inverted_residual(x, w: dict, stride: int, training: bool = False):
    """BN, expand, BN, GELU, three depthwise branches, gate, project, add, BN.
    """
    shortcut = x
    if stride > 1:
        shortcut = conv1x1(
            average3x3(x, stride), w['shortcut.1.weight'], w['shortcut.1.bias'])
    x = batch_norm(x, below(w, 'pre_norm.'), training)
    x = conv1x1(x, w['expand.0.0.weight'])
    x = gelu(batch_norm(x, below(w, 'expand.0.1.'), training))
    branches = []
    for k, dilation in enumerate((1, 2, 3)):
        branch = below(w, f'branches.{k}.')
        y = depthwise3x3(x, branch['0.0.weight'], stride, dilation)
        y = gelu(batch_norm(y, below(branch, '0.1.'), training))
        branches.append(squeeze_excite(y, below(w, f'squeeze_excites.{k}.')))
    x = gated_sum(x[:, :, ::stride, ::stride], branches, below(w, 'gate.'))
    x = conv1x1(x, w['project.weight'], w['project.bias'])
    return batch_norm(x + shortcut, below(w, 'post_norm.'), training)


def window_members(height: int, width: int, dilation: int) -> list:
    """Per window: [(i, j, y, x), ..] of its tokens that lie on the map."""
    windows = {}
    for y in range(height):
        for x in range(width):
            p, q = y % dilation, x % dilation
            row, column = y // dilation, x // dilation
            key = p, q, row // WINDOW, column // WINDOW
            windows.setdefault(key, []).append(
                (row % WINDOW, column % WINDOW, y, x))
    return list(windows.values())


def window_attention(x, w: dict, num_heads: int, dilation: int):
    """LayerNorm and self-attention among the real pixels of each window."""
    batch, channels, height, width = x.shape
    tokens = layer_norm(x.permute(0, 2, 3, 1), below(w, 'norm.'))
    head_dim = channels // num_heads
    out = torch.zeros_like(tokens)
    for members in window_members(height, width, dilation):
        ys = torch.tensor([m[2] for m in members])
        xs = torch.tensor([m[3] for m in members])
        rows = torch.tensor([[
            (i - k + WINDOW - 1) * (2 * WINDOW - 1) + j - m + WINDOW - 1
            for k, m, _, _ in members
        ] for i, j, _, _ in members])
        bias = w['relative_position_bias_table'][rows]
        qkv = linear(tokens[:, ys, xs], below(w, 'qkv.'))
        heads = []
        for head in range(num_heads):
            first = head * head_dim
            q, k, v = (
                qkv[:, :, part * channels + first:][:, :, :head_dim]
                for part in range(3))
            logits = q @ k.transpose(1, 2) / head_dim**0.5 + bias[..., head]
            scores = torch.exp(logits - logits.amax(-1, keepdim=True))
            heads.append(scores / scores.sum(-1, keepdim=True) @ v)
        out[:, ys, xs] = linear(torch.cat(heads, -1), below(w, 'proj.'))
    return out.permute(0, 3, 1, 2)


def atrous_attention(x, w: dict, num_heads: int, dilations):
    """Gated sum of the branches, without the residual."""
    branches = [
        window_attention(x, below(w, f'branches.{k}.'), num_heads, dilation)
        for k, dilation in enumerate(dilations)
    ]
    if len(branches) == 1:
        return branches[0]
    return gated_sum(x, branches, below(w, 'gate.'))


def block(x,
          w: dict,
          stride: int,
          num_heads: int,
          dilations,
          topology: str,
          training: bool = False):
    """An atrous inverted residual, then the attention block."""
    x = atrous_inverted_residual(x, below(w, 'conv.'), stride, training)
    attended = atrous_attention(x, below(w, 'attn.'), num_heads, dilations)
    y = attended if topology == 'figure' else x + attended
    mlp = layer_norm(y.permute(0, 2, 3, 1), below(w, 'norm.'))
    mlp = linear(gelu(linear(mlp, below(w, 'mlp.fc1.'))), below(w, 'mlp.fc2.'))
    mlp = mlp.permute(0, 3, 1, 2)
    return x + mlp if topology == 'figure' else y + mlp


def backbone(x, w: dict, arch: dict, topology: str, training: bool = False):
    """(B, 3, H, W) -> the maps of the four stages."""
    x = conv3x3(x, w['stem.0.0.weight'], 2)
    x = gelu(batch_norm(x, below(w, 'stem.0.1.'), training))
    x = conv3x3(x, w['stem.2.weight']) + w['stem.2.bias'][:, None, None]
    outs = []
    for i in range(4):
        num_heads = arch['embed_dims'][i] // arch['head_dim']
        for j in range(arch['depths'][i]):
            x = block(x, below(w, f'stages.{i}.{j}.'), 1 if j else 2, num_heads,
                      arch['dilations'][i], topology, training)
        outs.append(x)
    return outs
