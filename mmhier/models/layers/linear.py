"""Linear layers over the last dimension, fast on every CPU."""
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HAS_ONEDNN = torch.backends.mkldnn.is_available()
# Convolutions of one image of up to this many numbers bypass oneDNN.
SMALLEST_CONVOLUTION = 20480


def takes_convolution(x: Tensor) -> bool:
    """Whether a linear layer of (..., C) is faster as a 1x1 convolution.

    It is for float32 on a CPU: oneDNN, which computes convolutions, uses the
    widest instructions of every processor, MKL, which computes products of
    matrices, only those of Intel's.
    """
    return (x.device.type == 'cpu' and x.dtype == torch.float32
            and x.ndim in (3, 4) and HAS_ONEDNN
            and not torch.compiler.is_exporting()
            and not torch.is_autocast_enabled('cpu')
            and (x.shape[0] > 1 or torch.compiler.is_compiling()
                 or x.numel() > SMALLEST_CONVOLUTION))


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x @ weight.T + bias, as :func:`torch.nn.functional.linear`.

    Args:
        x (Tensor): (..., in_features).
        weight (Tensor): (out_features, in_features).
        bias (Tensor, optional): (out_features, ). Defaults to None.

    Returns:
        Tensor: (..., out_features).
    """
    if not takes_convolution(x):
        return F.linear(x, weight, bias)
    return over_pixels(
        lambda x: F.conv2d(x, weight[:, :, None, None], bias), x)


def over_pixels(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function of (B, C, H, W), which it takes to (B, C', H, W).

    Args:
        function (Callable): Such as a convolution.
        x (Tensor): (B, N, C) or (B, H, W, C).

    Returns:
        Tensor: (B, N, C') or (B, H, W, C').
    """
    rows = x if x.ndim == 4 else x.unsqueeze(2)
    out = function(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out if x.ndim == 4 else out.squeeze(2)


class Linear(nn.Linear):
    """:class:`torch.nn.Linear` computed by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)
