"""Attention of many queries to a few keys."""
from itertools import product

import torch
from torch import Tensor
from ..dynamic import is_traced
from .onednn import fuses_activations, linear

# Numbers of keys and queries between which convolutions are the faster way,
# and bytes of logits at a time.
LEAST_KEYS, MOST_KEYS = 128, 2048
LEAST_QUERIES = 1024
LOGITS_BYTES = 2**21


def suits_few_keys(q: Tensor, k: Tensor) -> bool:
    """Whether few-key attention is faster as two 1x1 convolutions than SDPA.

    torch's kernel multiplies matrices by MKL; with many keys its single pass
    over them makes up for that.
    """
    return (q.ndim == 4 and not is_traced() and fuses_activations(k[0])
            and LEAST_KEYS <= k.shape[2] <= MOST_KEYS
            and q.shape[2] >= LEAST_QUERIES)


def attend_few_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, for each head as two 1x1 convolutions of
    the queries whose kernels are the keys and the values.

    Args:
        q (Tensor): Queries, (B, num_heads, N, d).
        k (Tensor): Keys, (B, num_heads, M, d).
        v (Tensor): Values, (B, num_heads, M, d).

    Returns:
        Tensor: (B, num_heads, N, d).
    """
    batch, heads, num_queries, head_dim = q.shape
    # Laid out as the caller will need it, (B, N, heads, d).
    out = q.new_empty(batch, num_queries, heads, head_dim).transpose(1, 2)
    count = max(1, LOGITS_BYTES // (q.element_size() * k.shape[2]))
    # oneDNN is slow with kernels that are not contiguous.
    keys = k.contiguous() * head_dim**-0.5
    values = v.transpose(2, 3).contiguous()
    for i, j in product(range(batch), range(heads)):
        for first in range(0, num_queries, count):
            rows = slice(first, first + count)
            logits = linear(q[i, j, None, rows], keys[i, j])
            probs = torch.softmax(logits, -1, out=logits)
            out[i, j, rows] = linear(probs, values[i, j])[0]
    return out
