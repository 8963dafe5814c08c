"""Upsampling by `CARAFE <https://arxiv.org/abs/1905.02188>`_."""
import torch
import torch.nn.functional as F
from torch import Tensor
from .computing import gradients, to_compute_dtype


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor,
                         kernel_size: int, group_size: int,
                         scale_factor: int) -> None:
    """Weight the neighbourhood of each pixel by kernels for its subpixels.

    Args:
        features (Tensor): (B, C, H, W).
        masks (Tensor): (B, group_size * kernel_size ** 2, scale_factor * H,
            scale_factor * W) kernels.
        output (Tensor): (B, C, scale_factor * H, scale_factor * W) buffer.
        kernel_size (int): Size of the kernels.
        group_size (int): Groups of channels with kernels of their own.
        scale_factor (int): Subpixels of a pixel along each axis.
    """
    features, masks = to_compute_dtype(features, masks)
    output.copy_(
        _reassemble(features, masks, kernel_size, group_size, scale_factor))


def carafe_naive_backward(top_grad: Tensor, features: Tensor, masks: Tensor,
                          bottom_grad: Tensor, mask_grad: Tensor,
                          kernel_size: int, group_size: int,
                          scale_factor: int) -> None:
    """Compute the gradients of :func:`carafe_naive_forward`.

    Args:
        top_grad (Tensor): (B, C, scale_factor * H, scale_factor * W).
        bottom_grad (Tensor): (B, C, H, W) buffer.
        mask_grad (Tensor): Buffer of the shape of ``masks``.

    The other arguments are those of the forward function.
    """

    def reassemble(features: Tensor, masks: Tensor) -> Tensor:
        return _reassemble(features, masks, kernel_size, group_size,
                           scale_factor)

    by_features, by_masks = gradients(reassemble,
                                      to_compute_dtype(features, masks),
                                      top_grad)
    bottom_grad.copy_(by_features)
    mask_grad.copy_(by_masks)


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor,
                   routput: Tensor, rmasks: Tensor, output: Tensor,
                   kernel_size: int, group_size: int,
                   scale_factor: int) -> None:
    """Do the same as :func:`carafe_naive_forward`, with more buffers.

    Args:
        rfeatures (Tensor): Buffer of the shape of ``features`` for a copy of
            them, which mmcv hands to :func:`carafe_backward`.
        routput (Tensor): Unused: a buffer of mmcv.
        rmasks (Tensor): Unused: a buffer of mmcv.

    The other arguments are those of the naive function.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size,
                         scale_factor)


def carafe_backward(top_grad: Tensor, rfeatures: Tensor, masks: Tensor,
                    rtop_grad: Tensor, rbottom_grad_hs: Tensor,
                    rbottom_grad: Tensor, rmask_grad: Tensor,
                    bottom_grad: Tensor, mask_grad: Tensor, kernel_size: int,
                    group_size: int, scale_factor: int) -> None:
    """Compute the gradients of :func:`carafe_forward`.

    Args:
        rfeatures (Tensor): As the forward function left it.
        rtop_grad (Tensor): Unused: a buffer of mmcv.
        rbottom_grad_hs (Tensor): Unused: a buffer of mmcv.
        rbottom_grad (Tensor): Unused: a buffer of mmcv.
        rmask_grad (Tensor): Unused: a buffer of mmcv.

    The other arguments are those of :func:`carafe_naive_backward`.
    """
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad,
                          kernel_size, group_size, scale_factor)


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int,
                group_size: int, scale_factor: int) -> Tensor:
    batch, channels, height, width = features.shape
    pad = (kernel_size - 1) // 2
    # (B, group, C / group, H, 1, W, 1) and (B, group, tap, 1, H, s, W, s).
    padded = F.pad(features, [pad] * 4).unflatten(1, (group_size, -1))
    padded = padded[..., :, None, :, None]
    taps = masks.reshape(batch, group_size, kernel_size**2, 1, height,
                         scale_factor, width, scale_factor).unbind(2)
    output = features.new_zeros(batch, group_size, channels // group_size,
                                height, scale_factor, width, scale_factor)
    # One tap at a time: unfolding would hold all of them in memory.
    for tap, mask in enumerate(taps):
        row, column = divmod(tap, kernel_size)
        neighbour = padded[..., row:row + height, :, column:column + width, :]
        output = torch.addcmul(output, neighbour, mask)
    return output.reshape(batch, channels, height * scale_factor,
                          width * scale_factor)
