"""The feed-forward half of a transformer block."""
from torch import Tensor, nn
from .linear import Linear
from .sequence import sequence


class Mlp(nn.Module):
    """Linear, GELU, Linear, over the last dimension.

    Args:
        embed_dims (int): Channels in and out.
        hidden_dims (int): Channels between the two layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., embed_dims) -> (B, ..., embed_dims)."""
        return sequence(x, self.fc1, self.act, self.fc2)
