"""Deformable convolution, without and with modulation."""
import torch
import torch.nn.functional as F
from torch import Tensor
from .computing import call_torchvision, to_compute_dtype


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor,
                        output: Tensor, columns: Tensor, ones: Tensor, kW: int,
                        kH: int, dW: int, dH: int, padW: int, padH: int,
                        dilationW: int, dilationH: int, group: int,
                        deformable_group: int, im2col_step: int) -> None:
    """Convolve samples at shifted positions.

    `Deformable convolution <https://arxiv.org/abs/1703.06211>`_.

    Args:
        input (Tensor): (B, C, H, W).
        weight (Tensor): (C', C / group, kH, kW).
        offset (Tensor): (B, deformable_group * kH * kW * 2, H', W'), y before
            x, in pixels.
        output (Tensor): (B, C', H', W') buffer.
        columns (Tensor): Unused: a buffer of mmcv.
        ones (Tensor): Unused: a buffer of mmcv.
        kW (int): Width of the kernel.
        kH (int): Height of the kernel.
        dW (int): Stride from left to right.
        dH (int): Stride from top to bottom.
        padW (int): Padding left and right.
        padH (int): Padding at top and bottom.
        dilationW (int): Dilation from left to right.
        dilationH (int): Dilation from top to bottom.
        group (int): Groups of channels that are not mixed.
        deformable_group (int): Groups of channels with offsets of their own.
        im2col_step (int): Unused: torchvision chooses its own.
    """
    output.copy_(
        _convolve(input, weight, offset, None, None, dH, dW, padH, padW,
                  dilationH, dilationW, group, deformable_group))


def deform_conv_backward_input(input: Tensor, offset: Tensor,
                               gradOutput: Tensor, gradInput: Tensor,
                               gradOffset: Tensor, weight: Tensor,
                               columns: Tensor, kW: int, kH: int, dW: int,
                               dH: int, padW: int, padH: int, dilationW: int,
                               dilationH: int, group: int,
                               deformable_group: int, im2col_step: int) -> None:
    """Compute the gradients of :func:`deform_conv_forward` by its maps.

    Args:
        gradOutput (Tensor): (B, C', H', W').
        gradInput (Tensor): (B, C, H, W) buffer.
        gradOffset (Tensor): Buffer of the shape of ``offset``.

    The other arguments are those of the forward function.
    """
    grad_input, _, grad_offset, _, _ = _differentiate(gradOutput, input, weight,
                                                      offset, None, None, dH,
                                                      dW, padH, padW, dilationH,
                                                      dilationW, group,
                                                      deformable_group)
    gradInput.copy_(grad_input)
    gradOffset.copy_(grad_offset)


def deform_conv_backward_parameters(input: Tensor, offset: Tensor,
                                    gradOutput: Tensor, gradWeight: Tensor,
                                    columns: Tensor, ones: Tensor, kW: int,
                                    kH: int, dW: int, dH: int, padW: int,
                                    padH: int, dilationW: int, dilationH: int,
                                    group: int, deformable_group: int,
                                    scale: float, im2col_step: int) -> None:
    """Add the gradient of :func:`deform_conv_forward` to ``gradWeight``.

    Args:
        gradOutput (Tensor): (B, C', H', W').
        gradWeight (Tensor): (C', C / group, kH, kW) buffer.
        scale (float): Factor of the gradient.

    The other arguments are those of the forward function.
    """
    # The gradient by the weight does not depend on the weight.
    _, grad_weight, _, _, _ = _differentiate(gradOutput, input, gradWeight,
                                             offset, None, None, dH, dW, padH,
                                             padW, dilationH, dilationW, group,
                                             deformable_group)
    gradWeight.add_(grad_weight, alpha=scale)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor,
                                  ones: Tensor, offset: Tensor, mask: Tensor,
                                  output: Tensor, columns: Tensor,
                                  kernel_h: int, kernel_w: int, stride_h: int,
                                  stride_w: int, pad_h: int, pad_w: int,
                                  dilation_h: int, dilation_w: int, group: int,
                                  deformable_group: int,
                                  with_bias: bool) -> None:
    """Convolve weighted samples at shifted positions.

    `Deformable ConvNets v2 <https://arxiv.org/abs/1811.11168>`_. mmcv takes
    maps of offsets that are larger than the output, as DyHead gives them,
    and reads the first numbers of each image in memory as a map of the
    output's size.

    Args:
        input (Tensor): (B, C, H, W).
        weight (Tensor): (C', C / group, kernel_h, kernel_w).
        bias (Tensor): (C', ), unused without ``with_bias``.
        ones (Tensor): Unused: a buffer of mmcv.
        offset (Tensor): (B, deformable_group * kernel_h * kernel_w * 2, H',
            W') or larger, y before x, in pixels.
        mask (Tensor): (B, deformable_group * kernel_h * kernel_w, H', W') or
            larger, factor of each sample.
        output (Tensor): (B, C', H', W') buffer.
        columns (Tensor): Unused: a buffer of mmcv.
        kernel_h (int): Height of the kernel.
        kernel_w (int): Width of the kernel.
        stride_h (int): Stride from top to bottom.
        stride_w (int): Stride from left to right.
        pad_h (int): Padding at top and bottom.
        pad_w (int): Padding left and right.
        dilation_h (int): Dilation from top to bottom.
        dilation_w (int): Dilation from left to right.
        group (int): Groups of channels that are not mixed.
        deformable_group (int): Groups of channels with offsets of their own.
        with_bias (bool): Whether ``bias`` is added.

    Raises:
        ValueError: If ``offset`` or ``mask`` is smaller than the output.
    """
    samples = deformable_group * kernel_h * kernel_w
    output.copy_(
        _convolve(input, weight,
                  _read_as_map('offset', offset, 2 * samples, output),
                  _read_as_map('mask', mask, samples, output),
                  bias if with_bias else None, stride_h, stride_w, pad_h, pad_w,
                  dilation_h, dilation_w, group, deformable_group))


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor,
                                   ones: Tensor, offset: Tensor, mask: Tensor,
                                   columns: Tensor, grad_input: Tensor,
                                   grad_weight: Tensor, grad_bias: Tensor,
                                   grad_offset: Tensor, grad_mask: Tensor,
                                   grad_output: Tensor, kernel_h: int,
                                   kernel_w: int, stride_h: int, stride_w: int,
                                   pad_h: int, pad_w: int, dilation_h: int,
                                   dilation_w: int, group: int,
                                   deformable_group: int,
                                   with_bias: bool) -> None:
    """Compute the gradients of :func:`modulated_deform_conv_forward`.

    Args:
        grad_input (Tensor): (B, C, H, W) buffer.
        grad_weight (Tensor): Buffer of the shape of ``weight``.
        grad_bias (Tensor): (C', ) buffer, unused without ``with_bias``.
        grad_offset (Tensor): Buffer of the shape of ``offset``; zero where
            the forward function reads nothing.
        grad_mask (Tensor): Buffer of the shape of ``mask``.
        grad_output (Tensor): (B, C', H', W').

    The other arguments are those of the forward function.
    """
    samples = deformable_group * kernel_h * kernel_w
    by_input, by_weight, by_offset, by_mask, by_bias = _differentiate(
        grad_output, input, weight,
        _read_as_map('offset', offset, 2 * samples, grad_output),
        _read_as_map('mask', mask, samples,
                     grad_output), bias if with_bias else None, stride_h,
        stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    grad_input.copy_(by_input)
    grad_weight.copy_(by_weight)
    for buffer, gradient in ((grad_offset, by_offset), (grad_mask, by_mask)):
        unread = buffer.shape[1:].numel() - gradient.shape[1:].numel()
        buffer.copy_(F.pad(gradient.flatten(1), (0, unread)).view_as(buffer))
    if with_bias:
        grad_bias.copy_(by_bias)


def _read_as_map(name: str, tensor: Tensor, channels: int,
                 output: Tensor) -> Tensor:
    """Read the first numbers of each image as a map of the output's size."""
    height, width = output.shape[2:]
    if tensor.shape[1:].numel() < channels * height * width:
        raise ValueError(
            f'{name} of shape {tuple(tensor.shape)} is too small: expected '
            f'({len(output)}, {channels}, {height}, {width})')
    numbers = tensor.flatten(1)[:, :channels * height * width]
    return numbers.unflatten(1, (channels, height, width))


def _convolve(input: Tensor, weight: Tensor, offset: Tensor,
              mask: Tensor | None, bias: Tensor | None, *geometry:
              int) -> Tensor:
    tensors = _complete(input, weight, offset, mask, bias)
    return call_torchvision('deform_conv2d', *tensors, *geometry, mask
                            is not None)


def _differentiate(grad_output: Tensor, input: Tensor, weight: Tensor,
                   offset: Tensor, mask: Tensor | None, bias: Tensor | None,
                   *geometry: int) -> tuple[Tensor, ...]:
    """Return gradients by input, weight, offset, mask and bias.

    torchvision computes them all at once, so that mmcv's two calls for the
    convolution without modulation compute each of them twice.

    At a sample position of exactly -1 mmcv takes the derivative from outside
    of the map, which is zero, and torchvision that from inside. This is
    mmcv's.
    """
    tensors = _complete(input, weight, offset, mask, bias)
    grad_output = grad_output.to(tensors[0].dtype)
    gradients = call_torchvision('_deform_conv2d_backward', grad_output,
                                 *tensors, *geometry, mask is not None)
    at_border = _find_samples_at_minus_one(tensors[2], weight.shape[2:],
                                           *geometry[:6])
    gradients[2].masked_fill_(at_border, 0)
    return gradients


def _complete(input: Tensor, weight: Tensor, offset: Tensor,
              mask: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Cast all to one dtype and add the tensors that torchvision expects."""
    if mask is None:
        mask = offset.new_zeros(len(offset), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    return tuple(to_compute_dtype(input, weight, offset, mask, bias))


def _find_samples_at_minus_one(offset: Tensor, kernel_size: torch.Size,
                               stride_h: int, stride_w: int, pad_h: int,
                               pad_w: int, dilation_h: int,
                               dilation_w: int) -> Tensor:
    """Return where a sample's y, or x, is -1; of the shape of ``offset``."""
    height, width = offset.shape[2:]

    def arange(size: int) -> Tensor:
        return torch.arange(size, device=offset.device)

    y = (arange(height) * stride_h - pad_h)[:, None] + (
        arange(kernel_size[0]) * dilation_h)[:, None, None, None]
    x = arange(width) * stride_w - pad_w + (arange(kernel_size[1]) *
                                            dilation_w)[:, None, None]
    offset_y, offset_x = offset.unflatten(1, (-1, *kernel_size, 2)).unbind(4)
    found = torch.stack([offset_y + y == -1, offset_x + x == -1], 4)
    return found.flatten(1, 4)
