"""The feed-forward half of a transformer block."""
from torch import nn


class Mlp(nn.Sequential):
    """Linear, GELU, Linear, over the last dimension.

    Args:
        embed_dims (int): Channels in and out.
        hidden_dims (int): Channels between the two layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
