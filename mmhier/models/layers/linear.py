"""Linear layers and convolutions of channels-last maps.

mmengine's initializers look at the direct base class of a module, so each of
these derives from torch's own.
"""
from torch import Tensor, nn
from .cpu.onednn import linear


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, by oneDNN on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Conv2d):
    """1x1 convolution of (..., C)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channels) -> (..., out_channels)."""
        return linear(x, self.weight.flatten(1), self.bias)


class Conv(nn.Conv2d):
    """Convolution of (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, H', W', out_channels)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution of (B, H, W, C) that keeps its size.

    Args:
        channels (int): Channels C in and out.
        kernel_size (int): Odd side of the kernel.
        bias (bool): Defaults to False.
        dilation (int): Distance of neighbouring taps. Defaults to 1.
    """

    def __init__(self,
                 channels: int,
                 kernel_size: int,
                 bias: bool = False,
                 dilation: int = 1):
        super().__init__(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=channels,
            bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
