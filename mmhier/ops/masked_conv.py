"""Convolution at some of the pixels, for inference."""
import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor,
                          col: Tensor, kernel_h: int, kernel_w: int, pad_h: int,
                          pad_w: int) -> None:
    """Collect the neighbourhoods of some pixels.

    Args:
        im (Tensor): (1, C, H, W).
        mask_h_idx (Tensor): (N, ) rows of the pixels.
        mask_w_idx (Tensor): (N, ) columns of the pixels.
        col (Tensor): (C * kernel_h * kernel_w, N) buffer.
        kernel_h (int): Height of a neighbourhood.
        kernel_w (int): Width of a neighbourhood.
        pad_h (int): Padding with zeros at top and bottom.
        pad_w (int): Padding with zeros left and right.
    """
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows, columns].flatten(0, 2))


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor,
                          im: Tensor, height: int, width: int,
                          channels: int) -> None:
    """Write values to some pixels.

    Args:
        col (Tensor): (C, N) values.
        mask_h_idx (Tensor): (N, ) rows of the pixels.
        mask_w_idx (Tensor): (N, ) columns of the pixels.
        im (Tensor): (1, C, H, W) buffer, left as it is at other pixels.
        height (int): H.
        width (int): W.
        channels (int): C.
    """
    im[0, :, mask_h_idx, mask_w_idx] = col
