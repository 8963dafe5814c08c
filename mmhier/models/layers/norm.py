"""Norms of channels-last maps."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from .cuda.global_norm import global_norm
from .dynamic import is_traced


class GlobalNorm(nn.GroupNorm):
    """GroupNorm of one group on (B, H, W, C): statistics over a whole map.

    Args:
        num_channels (int): Channels C.
    """

    def __init__(self, num_channels: int):
        super().__init__(1, num_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if x.device.type == 'cpu':
            if torch.is_grad_enabled() and not x.requires_grad:
                # The same values: behind frozen stages torch's backward of a
                # channels-last group_norm crashes (2.11, CPU).
                x = F.layer_norm(x, x.shape[1:], eps=self.eps)
                return torch.addcmul(self.bias, x, self.weight)
        elif not is_traced():
            return global_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
