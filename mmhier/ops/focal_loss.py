"""Focal loss of sigmoid and of softmax."""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from .computing import compute_dtype

# Logits that are computed at a time: small next to those of a large map, with
# few launches on a GPU.
CHUNK_SIZE = 2**21


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Compute the focal loss of independent logits.

    `Focal loss <https://arxiv.org/abs/1708.02002>`_ with the logarithm of
    the sigmoid. mmcv's CUDA kernel takes the logarithm of a rounded
    probability, which is wrong for logits beyond 16 on the wrong side.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N, ) class of each row; a number outside [0, C) is
            background.
        weight (Tensor): (C, ) weight of the rows of each class, or empty.
            Background has weight 1.
        output (Tensor): (N, C) buffer for the loss.
        gamma (float): Exponent that lessens easy examples.
        alpha (float): Weight of positives, 1 - alpha is that of negatives.
    """
    for logit, rows, out in _chunks(input, target, output):
        sign, scale = _focal_sign_and_scale(logit, rows, weight, alpha)
        logit = sign * logit
        loss = F.logsigmoid(logit).mul_(torch.sigmoid(-logit).pow_(gamma))
        out.copy_(loss.mul_(scale).neg_())


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Compute the derivative of :func:`sigmoid_focal_loss_forward`.

    Args:
        grad_input (Tensor): (N, C) buffer for the derivative of each loss
            by its logit.

    The other arguments are those of the forward function.
    """
    for logit, rows, out in _chunks(input, target, grad_input):
        sign, scale = _focal_sign_and_scale(logit, rows, weight, alpha)
        logit = sign * logit
        p, q = torch.sigmoid(logit), torch.sigmoid(-logit)
        slope = F.logsigmoid(logit).mul_(p).mul_(gamma).sub_(q)
        out.copy_(slope.mul_(q.pow_(gamma)).mul_(scale).mul_(sign))


def _chunks(input: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal rows of all tensors, `CHUNK_SIZE` numbers of `input` at a time."""
    count = max(1, CHUNK_SIZE // input.size(1))
    return zip(*(tensor.split(count) for tensor in (input, *others)))


def _focal_sign_and_scale(input: Tensor, target: Tensor, weight: Tensor,
                          alpha: float) -> tuple[Tensor, Tensor]:
    """Return 1 at positives and -1 at negatives, and the loss's weight."""
    dtype = compute_dtype(input)
    classes = torch.arange(input.size(1), device=input.device)
    positive = target[:, None] == classes
    sign = positive.to(dtype).mul_(2).sub_(1)
    scale = torch.full_like(sign, 1 - alpha).masked_fill_(positive, alpha)
    if weight.numel():
        row_weight = torch.where(positive, weight.to(dtype), 0).sum(1)
        scale *= torch.where(positive.any(1), row_weight, 1)[:, None]
    return sign, scale


def softmax_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Compute the focal loss of classes that exclude each other.

    Args:
        input (Tensor): (N, C) probabilities, i.e. after the softmax.
        target (Tensor): (N, ) class of each row; a number outside [0, C) has
            no loss.
        weight (Tensor): (C, ) weight of each class, or empty.
        output (Tensor): (N, ) buffer for the loss.
        gamma (float): Exponent that lessens easy examples.
        alpha (float): Weight of the loss.
    """
    p, scale = _target_probability_and_scale(input, target, weight, alpha)
    output.copy_(-scale * (1 - p).pow_(gamma) * _log(p))


def softmax_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                buff: Tensor, grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """Compute the derivative of :func:`softmax_focal_loss_forward`.

    Args:
        buff (Tensor): (N, ) buffer for p times the derivative of the loss by
            the probability p of the target.
        grad_input (Tensor): (N, C) buffer for the derivative by the logits.

    The other arguments are those of the forward function.
    """
    p, scale = _target_probability_and_scale(input, target, weight, alpha)
    q = 1 - p
    # log(p) / (1 - p), whose limit at p = 1 is -1, keeps gamma < 1 finite.
    ratio = torch.where(q > 0, _log(p) / q, -1)
    slope = scale * q.pow(gamma) * (gamma * p * ratio - 1)
    buff.copy_(slope)
    classes = torch.arange(input.size(1), device=input.device)
    one_hot = (target[:, None] == classes).to(p.dtype)
    grad_input.copy_(slope[:, None] * (one_hot - input))


def _target_probability_and_scale(input: Tensor, target: Tensor, weight: Tensor,
                                  alpha: float) -> tuple[Tensor, Tensor]:
    """Return p of the target and the weight of each row, 0 if it has none."""
    valid = (target >= 0) & (target < input.size(1))
    index = torch.where(valid, target, 0)
    p = input.to(compute_dtype(input)).gather(1, index[:, None])[:, 0]
    scale = alpha * valid.to(p.dtype)
    if weight.numel():
        scale *= weight.to(p.dtype)[index]
    return p, scale


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=torch.finfo(torch.float32).tiny).log_()
