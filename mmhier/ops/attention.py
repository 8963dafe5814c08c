"""Multi-scale deformable attention and the masks of PSANet."""
import torch
from torch import Tensor
from .computing import gradients, to_compute_dtype


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor,
                           value_level_start_index: Tensor,
                           sampling_locations: Tensor,
                           attention_weights: Tensor,
                           im2col_step: int) -> Tensor:
    """Sum weighted samples of feature maps, by mmcv's own torch code.

    `Deformable DETR <https://arxiv.org/abs/2010.04159>`_. The gradient of a
    sample exactly one pixel outside of a map is that of the side inside, as
    it is in mmcv on a CPU; mmcv's CUDA kernel gives zero.

    Args:
        value (Tensor): (B, N, num_heads, C) all levels, one after another.
        value_spatial_shapes (Tensor): (L, 2) height and width of the levels.
        value_level_start_index (Tensor): Unused: follows from the shapes.
        sampling_locations (Tensor): (B, Q, num_heads, L, P, 2), x before y,
            in [0, 1].
        attention_weights (Tensor): (B, Q, num_heads, L, P).
        im2col_step (int): Unused: the whole batch is sampled at once.

    Returns:
        Tensor: (B, Q, num_heads * C).
    """
    from mmcv.ops import multi_scale_deform_attn
    tensors = to_compute_dtype(value, sampling_locations, attention_weights)
    output = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch(
        tensors[0], value_spatial_shapes.tolist(), *tensors[1:])
    return output.to(value.dtype)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor,
                            value_level_start_index: Tensor,
                            sampling_locations: Tensor,
                            attention_weights: Tensor, grad_output: Tensor,
                            grad_value: Tensor, grad_sampling_loc: Tensor,
                            grad_attn_weight: Tensor, im2col_step: int) -> None:
    """Compute the gradients of :func:`ms_deform_attn_forward`.

    Args:
        grad_output (Tensor): (B, Q, num_heads * C).
        grad_value (Tensor): Buffer of the shape of ``value``.
        grad_sampling_loc (Tensor): Buffer of the shape of
            ``sampling_locations``.
        grad_attn_weight (Tensor): Buffer of the shape of
            ``attention_weights``.

    The other arguments are those of the forward function.
    """

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_forward(value, value_spatial_shapes,
                                      value_level_start_index, locations,
                                      weights, im2col_step)

    inputs = to_compute_dtype(value, sampling_locations, attention_weights)
    buffers = (grad_value, grad_sampling_loc, grad_attn_weight)
    for buffer, gradient in zip(buffers, gradients(attend, inputs,
                                                   grad_output)):
        buffer.copy_(gradient)


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int,
                    h_feature: int, w_feature: int, h_mask: int, w_mask: int,
                    half_h_mask: int, half_w_mask: int) -> None:
    """Place the mask that is centred at each pixel onto the feature map.

    `PSANet <https://hszhao.github.io/papers/eccv18_psanet.pdf>`_.

    Args:
        input (Tensor): (B, h_mask * w_mask, H, W) the mask of each pixel.
        output (Tensor): (B, H * W, H, W) zeros: of each pixel of the map in
            the second dimension the weight for each pixel (H, W) that has a
            mask, or the other way round with ``psa_type`` 1.
        psa_type (int): 0 to collect, 1 to distribute.
        num_ (int): B.
        h_feature (int): H.
        w_feature (int): W.
        h_mask (int): Height of a mask.
        w_mask (int): Width of a mask.
        half_h_mask (int): Row of a mask's centre.
        half_w_mask (int): Column of a mask's centre.
    """
    index, valid = _index_masks(h_feature, w_feature, h_mask, w_mask,
                                half_h_mask, half_w_mask, input.device)
    weights = input.flatten(2).gather(1, index.expand(num_, -1, -1)) * valid
    if psa_type == 1:
        weights = weights.transpose(1, 2)
    output.copy_(weights.reshape(output.shape))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int,
                     num_: int, h_feature: int, w_feature: int, h_mask: int,
                     w_mask: int, half_h_mask: int, half_w_mask: int) -> None:
    """Compute the gradient of :func:`psamask_forward`.

    Args:
        grad_output (Tensor): (B, H * W, H, W).
        grad_input (Tensor): (B, h_mask * w_mask, H, W) zeros.

    The other arguments are those of the forward function.
    """
    index, valid = _index_masks(h_feature, w_feature, h_mask, w_mask,
                                half_h_mask, half_w_mask, grad_output.device)
    weights = grad_output.flatten(2)
    if psa_type == 1:
        weights = weights.transpose(1, 2)
    grad_input.flatten(2).scatter_add_(1, index.expand(num_, -1, -1),
                                       weights * valid)


def _index_masks(height: int, width: int, h_mask: int, w_mask: int,
                 half_h_mask: int, half_w_mask: int,
                 device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the element of pixel p's mask that lies on pixel q, at [q, p].

    Both are (H * W, H * W); the second is false where there is none.
    """
    pixels = torch.arange(height * width, device=device)
    y, x = pixels.div(width, rounding_mode='floor'), pixels % width
    row = y[:, None] - y + half_h_mask
    column = x[:, None] - x + half_w_mask
    valid = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    return torch.where(valid, row * w_mask + column, 0), valid
