"""Multi-head attention with optional position bias and mask."""
import torch.nn.functional as F
from torch import Tensor, nn
from .cpu.few_keys import attend_few_keys, suits_few_keys
from .linear import Linear


def attend(q: Tensor,
           k: Tensor,
           v: Tensor,
           bias: Tensor | None = None,
           mask: Tensor | None = None,
           attn_impl: str = 'auto') -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v.

    Args:
        q (Tensor): Queries, (..., num_heads, N, d).
        k (Tensor): Keys, (..., num_heads, M, d).
        v (Tensor): Values, (..., num_heads, M, d).
        bias (Tensor, optional): Added to the logits, broadcastable to
            (..., num_heads, N, M). Defaults to None.
        mask (Tensor, optional): Likewise, without a gradient, such as
            :func:`~mmhier.models.layers.window_mask`. Defaults to None.
        attn_impl (str): 'eager' is the readable form, anything else torch's
            fused scaled_dot_product_attention. Defaults to 'auto'.

    Returns:
        Tensor: (..., num_heads, N, d).
    """
    # torch has no fused kernel that passes a gradient to the bias on a CPU.
    if attn_impl == 'eager' or (bias is not None and bias.requires_grad
                                and bias.device.type == 'cpu'):
        logits = (q * q.shape[-1]**-0.5) @ k.transpose(-2, -1)
        for term in (bias, mask):
            if term is not None:
                logits = logits + term
        return logits.softmax(-1).to(v.dtype) @ v
    terms = [t.to(q.dtype) for t in (bias, mask) if t is not None]
    if not terms:
        if suits_few_keys(q, k):
            return attend_few_keys(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)
    total = sum(terms[1:], terms[0])
    # The fused CPU kernel is not taken for a mask of fewer dimensions.
    total = total[(None, ) * (q.ndim - total.ndim)]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=total)


def split_heads(x: Tensor, parts: int, num_heads: int) -> Tensor:
    """(B, N, parts * C) -> (parts, B, num_heads, N, C / num_heads)."""
    x = x.view(x.shape[0], x.shape[1], parts, num_heads, -1)
    return x.permute(2, 0, 3, 1, 4)


class SelfAttention(nn.Module):
    """Multi-head self-attention over a sequence of tokens.

    Args:
        embed_dims (int): Channels C of the tokens.
        num_heads (int): Number of heads, a divisor of C.
        attn_impl (str): See :func:`attend`. Defaults to 'auto'.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 attn_impl: str = 'auto'):
        super().__init__()
        self.num_heads = num_heads
        self.attn_impl = attn_impl
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, *context: int) -> Tensor:
        """(B, N, C) -> (B, N, C); `context` goes to :meth:`mix`."""
        batch, num_tokens, channels = x.shape
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        x = self.mix(q, k, v, *context)
        return self.proj(x.transpose(1, 2).reshape(batch, num_tokens, channels))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, *context: int) -> Tensor:
        """Attention of (B, num_heads, N, C / num_heads) each."""
        return attend(q, k, v, attn_impl=self.attn_impl)
