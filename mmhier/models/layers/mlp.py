"""The feed-forward half of a transformer block."""
from torch import Tensor, nn
from .activated import ActivatedLinear
from .bands import apply_in_bands
from .linear import Linear, fuses_activations


class Mlp(nn.Sequential):
    """Linear, GELU, Linear, over the last dimension.

    Args:
        embed_dims (int): Channels in and out.
        hidden_dims (int): Channels between the two layers.
    """

    def __init__(self, embed_dims: int, hidden_dims: int):
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.fc2 = ActivatedLinear(hidden_dims, embed_dims, 'gelu')

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., embed_dims) -> (B, ..., embed_dims)."""
        return apply_in_bands(
            self._forward_rows, x, self.fc1.out_features, modules=[self])

    def _forward_rows(self, x: Tensor) -> Tensor:
        # Other layers may have been put in place of these.
        if (isinstance(self.fc1, Linear)
                and isinstance(self.fc2, ActivatedLinear)
                and fuses_activations(x)):
            return self.fc2(self.fc1(x, then='gelu'), activated=True)
        return super().forward(x)
