"""Depthwise convolution with dilation."""
import torch
from torch import Tensor, nn
from .cpu.dilated_depthwise import dilated_depthwise


class DilatedDepthwiseConv(nn.Conv2d):
    """Depthwise 3x3 convolution, padded to keep the size at stride 1.

    Args:
        channels (int): Channels in and out.
        stride (int): Stride.
        dilation (int): Dilation.
    """

    def __init__(self, channels: int, stride: int, dilation: int):
        super().__init__(
            channels,
            channels,
            3,
            stride,
            dilation,
            dilation,
            groups=channels,
            bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        if (self.dilation[0] == 1 or self.bias is not None
                or x.device.type != 'cpu' or torch.compiler.is_compiling()
                or not torch.is_grad_enabled()):
            return super().forward(x)
        return dilated_depthwise(x, self.weight, self.stride[0],
                                 self.dilation[0])
