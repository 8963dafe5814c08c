"""Deformable token merging of LIT and LITv2."""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torchvision.ops import deform_conv2d
from .dynamic import pad_for_stride


class DeformConv(nn.Conv2d):
    """2x2 deformable convolution with a bias, not padded.

    `conv_offset` predicts 8 numbers per output position: for the taps
    (0, 0), (0, 1), (1, 0), (1, 1) the shift (dy, dx) in input pixels. It
    starts at zero, a plain convolution. Sampling is bilinear, zero outside.
    All of it runs in the precision of the weights and at least float32,
    under autocast too: shifts in half precision would be too coarse.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int,
                 dilation: int):
        super().__init__(
            in_channels, out_channels, 2, stride, dilation=dilation)
        self.conv_offset = nn.Conv2d(
            in_channels, 8, 2, stride, dilation=dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W'); H' = H // 2 at stride 2, H -
        dilation at stride 1."""
        in_dtype = x.dtype
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        # The meta device, on which costs are counted, has no autocast.
        off = nullcontext() if x.is_meta else torch.autocast(
            x.device.type, enabled=False)
        with off:
            x = x.to(self.weight.dtype)
            offset = self.conv_offset(x)
            x = deform_conv2d(
                x.to(dtype),
                offset.to(dtype),
                self.weight.to(dtype),
                self.bias.to(dtype),
                self.stride,
                dilation=self.dilation)
        return x.to(in_dtype)


class DeformableMerging(nn.Module):
    """Deformable token merging (LIT, section 3.3), which halves a map.

    Args:
        in_channels (int): C_in.
        out_channels (int): C_out.
        norm_cfg (dict): Of the norm behind the convolution.
        ceil_mode (bool): Pad odd maps with zeros on the right and bottom
            instead of dropping their last row or column. Defaults to True.
        stride (int): 2, or 1 to keep the size of the map. Defaults to 2.
        dilation (int): Distance of the merged tokens. Defaults to 1.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 norm_cfg: dict,
                 ceil_mode: bool = True,
                 stride: int = 2,
                 dilation: int = 1):
        super().__init__()
        self.ceil_mode = ceil_mode
        self.dconv = DeformConv(in_channels, out_channels, stride, dilation)
        self.norm_layer = build_norm_layer(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C_in) -> (B, ceil(H / stride), ceil(W / stride), C_out),
        floor without ceil_mode."""
        x = x.permute(0, 3, 1, 2).contiguous()
        if self.dconv.stride[0] == 1:
            x = F.pad(x, (0, self.dconv.dilation[1], 0, self.dconv.dilation[0]))
        elif self.ceil_mode:
            x = pad_for_stride(x, 2)
        x = F.gelu(self.norm_layer(self.dconv(x)))
        return x.permute(0, 2, 3, 1)
