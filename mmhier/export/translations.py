"""Operators whose translation to ONNX by torch 2.11 differs from torch.

Each takes the values of an ONNX graph and returns one; see
``custom_translation_table`` of ``torch.onnx.export``.
"""
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch


def translations() -> dict[Callable, Callable]:
    """Translations by torch operator."""
    from onnxscript import opset18 as op

    def floordiv(self: Any, other: Any) -> Any:
        # Div of ONNX truncates, and ceil(a / b) is written as -(-a // b).
        return op.Div(op.Sub(self, op.Mod(self, other)), other)

    def remainder(self: Any, other: Any) -> Any:
        # torch's takes no symbolic number.
        other = op.CastLike(other, self)
        if self.dtype.is_integer():
            return op.Mod(self, other)
        return op.Sub(self, op.Mul(op.Floor(op.Div(self, other)), other))

    def avg_pool2d(self: Any,
                   kernel_size: Sequence[int],
                   stride: Sequence[int] = (),
                   padding: Sequence[int] = (0, ),
                   ceil_mode: bool = False,
                   count_include_pad: bool = True,
                   divisor_override: int | None = None) -> Any:
        # torch's drops divisor_override.
        kernel, stride, padding = (
            list(sizes) * (2 // len(sizes))
            for sizes in (kernel_size, stride or kernel_size, padding))
        out = op.AveragePool(
            self,
            kernel_shape=kernel,
            strides=stride,
            pads=padding * 2,
            ceil_mode=ceil_mode,
            count_include_pad=(count_include_pad
                               or divisor_override is not None))
        if divisor_override is not None:
            factor = kernel[0] * kernel[1] / divisor_override
            out = op.Mul(out, op.CastLike(factor, self))
        return out

    return {
        operator.floordiv: floordiv,
        torch.ops.aten.remainder.Scalar: remainder,
        torch.ops.aten.avg_pool2d.default: avg_pool2d
    }
