"""Helpers of the operators: dtypes, torchvision's kernels, gradients."""
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor
from .source import indented_compile_commands


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest dtype of some tensors, at least float32."""
    return functools.reduce(torch.promote_types,
                            (tensor.dtype for tensor in tensors), torch.float32)


def to_compute_dtype(*tensors: Tensor) -> list[Tensor]:
    """Cast tensors to their widest dtype, at least float32."""
    dtype = compute_dtype(*tensors)
    return [tensor.to(dtype) for tensor in tensors]


def call_torchvision(name: str, tensor: Tensor, *args: Any) -> Any:
    """Call a kernel of torchvision.

    Args:
        name (str): Name in ``torch.ops.torchvision``.
        tensor (Tensor): First argument, whose device selects the kernel.
        *args: The other arguments.

    Raises:
        NotImplementedError: If torchvision has no such kernel for the device.
    """
    try:
        return getattr(torch.ops.torchvision, name)(tensor, *args)
    except (AttributeError, NotImplementedError) as error:
        raise NotImplementedError(
            f'torchvision {torchvision.__version__} has no operator '
            f'{name!r} for device {str(tensor.device)!r}. Install the '
            f'torchvision that was built for torch {torch.__version__}, or '
            'compile mmcv:\n' + indented_compile_commands()) from error


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor],
              grad_output: Tensor) -> tuple[Tensor, ...]:
    """Differentiate a function by autograd, where the caller disabled it.

    Args:
        function (Callable): Computes one tensor from ``inputs``.
        inputs (Sequence[Tensor]): Arguments to differentiate by.
        grad_output (Tensor): Gradient of the result.

    Returns:
        tuple[Tensor]: The gradient of each of ``inputs``.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype))
