"""Steps of mmcv's synchronized batch normalization, without communication."""
import torch
from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Compute the mean of each channel in this process.

    Args:
        input (Tensor): (B, C, N).
        mean (Tensor): (C, ) buffer in float32, like all statistics.
    """
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Compute the variance of each channel in this process.

    Args:
        input (Tensor): (B, C, N).
        mean (Tensor): (C, ) mean of all processes.
        var (Tensor): (C, ) buffer.
    """
    var.copy_((input.float() - mean[:, None]).square_().mean((0, 2)))


def sync_bn_forward_output(input: Tensor, mean: Tensor, var: Tensor,
                           weight: Tensor, bias: Tensor, running_mean: Tensor,
                           running_var: Tensor, norm: Tensor, std: Tensor,
                           output: Tensor, eps: float, momentum: float | Tensor,
                           group_size: int) -> None:
    """Normalize and update the running statistics.

    Args:
        input (Tensor): (B, C, N).
        mean (Tensor): (C, ) mean of all processes.
        var (Tensor): (C, ) variance of all processes.
        weight (Tensor): (C, ) factor of each channel.
        bias (Tensor): (C, ) offset of each channel.
        running_mean (Tensor): (C, ) average that is updated.
        running_var (Tensor): (C, ) average that is updated, of the unbiased
            variance.
        norm (Tensor): (B, C, N) buffer for the input with mean 0 and standard
            deviation 1.
        std (Tensor): (C, ) buffer for the standard deviation.
        output (Tensor): (B, C, N) buffer.
        eps (float): Added to the variance.
        momentum (float | Tensor): Share of this batch in the averages.
        group_size (int): Number of processes.
    """
    std.copy_((var + eps).sqrt_())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    count = input.size(0) * input.size(2) * group_size
    unbiased = var * (count / (count - 1)) if count > 1 else var
    momentum = torch.as_tensor(momentum).to(mean)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(unbiased, momentum)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor,
                           grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Compute the gradients by factor and offset in this process.

    Args:
        grad_output (Tensor): (B, C, N).
        norm (Tensor): (B, C, N) as :func:`sync_bn_forward_output` left it.
        grad_weight (Tensor): (C, ) buffer.
        grad_bias (Tensor): (C, ) buffer.
    """
    grad_weight.copy_((grad_output * norm).sum((0, 2)))
    grad_bias.copy_(grad_output.float().sum((0, 2)))


def sync_bn_backward_data(grad_output: Tensor, weight: Tensor,
                          grad_weight: Tensor, grad_bias: Tensor, norm: Tensor,
                          std: Tensor, grad_input: Tensor) -> None:
    """Compute the gradient by the input.

    Args:
        grad_output (Tensor): (B, C, N).
        weight (Tensor): (C, ) factor of each channel.
        grad_weight (Tensor): (C, ) average over all processes.
        grad_bias (Tensor): (C, ) average over all processes.
        norm (Tensor): (B, C, N) as :func:`sync_bn_forward_output` left it.
        std (Tensor): (C, ) standard deviation.
        grad_input (Tensor): (B, C, N) buffer.
    """
    count = grad_output.size(0) * grad_output.size(2)
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((grad_output - common) * (weight / std)[:, None])
