"""Patch embedding of LIT and LITv2."""
from torch import Tensor, nn
from .dynamic import pad_for_stride


class PatchEmbed(nn.Module):
    """4x4 convolution of stride 4, then a LayerNorm.

    Args:
        embed_dims (int): C.
        ceil_mode (bool): Pad the image with zeros on the right and bottom
            instead of dropping rows and columns that fill no patch.
            Defaults to True.
    """

    def __init__(self, embed_dims: int, ceil_mode: bool = True):
        super().__init__()
        self.ceil_mode = ceil_mode
        self.proj = nn.Conv2d(3, embed_dims, 4, stride=4)
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ceil(H / 4), ceil(W / 4), C), floor without
        ceil_mode."""
        if self.ceil_mode:
            x = pad_for_stride(x, 4)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))
