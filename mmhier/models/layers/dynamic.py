"""Operations that leave the sizes of a compiled or exported graph open.

A graph should serve every image size. In such graphs these functions take
forms that ask nothing about the sizes.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def pad_for_stride(x: Tensor, stride: int) -> Tensor:
    """Zeros on the right and bottom of (B, C, H, W) to fill the last cells.

    A compiled graph serves every size, so there `stride - 1` rows and columns
    are added; a convolution of that stride drops those that fill no cell.
    """
    if torch.compiler.is_compiling():
        bottom = right = stride - 1
    else:
        bottom, right = -x.shape[2] % stride, -x.shape[3] % stride
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
