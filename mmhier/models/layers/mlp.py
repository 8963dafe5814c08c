"""The feed-forward half of a transformer block."""
from collections import OrderedDict

from torch import nn
from .linear import Linear
from .sequence import Layers


class Mlp(Layers):
    """Linear, GELU, Linear, over the last dimension.

    Args:
        embed_dims (int): Channels in and out.
        hidden_dims (int): Channels between the two layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__(
            OrderedDict(
                fc1=Linear(embed_dims, hidden_dims),
                act=nn.GELU(),
                fc2=Linear(hidden_dims, embed_dims)))
