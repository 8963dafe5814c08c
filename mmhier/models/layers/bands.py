"""Work on bands of rows, whose intermediate results stay in the cache.

The wide maps within a block need several times the memory of its input and
output. On a CPU, memory that is not in the cache takes longer than the
arithmetic, and memory fresh from the system longer still. So the widest parts
of a block are computed a band of rows after the other; in training nothing
but their input is kept, and each band is computed again in the backward pass.
"""
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from .tracing import is_traced

# Of the widest intermediate result of a band, in inference and in training.
BAND_BYTES = 2**22
TRAINING_BAND_BYTES = 2**23

_whole_maps = ContextVar('whole_maps', default=False)


@contextmanager
def whole_maps() -> Iterator[None]:
    """No bands within: every layer sees its whole map in a single call."""
    token = _whole_maps.set(True)
    try:
        yield
    finally:
        _whole_maps.reset(token)


def uses_whole_maps() -> bool:
    """Whether this is within :func:`whole_maps`."""
    return _whole_maps.get()


def row_bands(x: Tensor, width: int, multiple: int = 1) -> list[slice]:
    """Bands of rows in which work on a map is done best.

    Args:
        x (Tensor): (B, rows, ..., C), what is worked on.
        width (int): Channels of the widest intermediate result.
        multiple (int): Every band but the last one holds a multiple of this
            many rows. Defaults to 1.

    Returns:
        list[slice]: Even slices that cover all rows; a single one on other
        devices than a CPU, in compiled or exported graphs and within
        :func:`whole_maps`.
    """
    num_rows = x.shape[1]
    if x.device.type != 'cpu' or is_traced() or uses_whole_maps():
        return [slice(0, num_rows)]
    positions = x.numel() // x.shape[-1]
    limit = TRAINING_BAND_BYTES if torch.is_grad_enabled() else BAND_BYTES
    count = max(1, round(positions * width * x.element_size() / limit))
    rows = -(-num_rows // (count * multiple)) * multiple
    return [
        slice(first, min(first + rows, num_rows))
        for first in range(0, num_rows, rows)
    ]


def apply_in_bands(
    function: Callable[..., Tensor],
    x: Tensor,
    width: int,
    multiple: int = 1,
    halo: int = 0,
    tensors: Sequence[Tensor] = (),
    modules: Sequence[nn.Module] = ()
) -> Tensor:
    """``function(x, *tensors)``, a band of rows after the other where it pays.

    Args:
        function (Callable): Takes (B, rows, ..., C) to (B, rows, ..., C'),
            each group of `multiple` rows by itself. Deterministic.
        x (Tensor): (B, rows, ..., C).
        width (int): Channels of the widest intermediate result.
        multiple (int): Number of rows that belong together. Defaults to 1.
        halo (int): How many rows above and below it a row depends on.
            Defaults to 0.
        tensors (Sequence[Tensor]): More arguments, the same for every band.
            Defaults to ().
        modules (Sequence[nn.Module]): Those whose parameters `function`
            reads. Defaults to ().

    Returns:
        Tensor: (B, rows, ..., C').
    """
    bands = row_bands(x, width, multiple)
    if len(bands) == 1:
        return function(x, *tensors)
    if not torch.is_grad_enabled():
        return _run_in_bands(function, bands, halo, x, tensors)
    parameters = [
        parameter for module in modules for parameter in module.parameters()
        if parameter.requires_grad
    ]
    return _RecomputedBands.apply(function, bands, halo, parameters,
                                  len(tensors), x, *tensors, *parameters)


def _run_in_bands(function: Callable[..., Tensor], bands: list[slice],
                  halo: int, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    out: Tensor | None = None
    for band in bands:
        read, kept = _with_halo(band, halo, x.shape[1])
        part = function(x[:, read], *tensors)[:, kept]
        if out is None:
            out = part.new_empty(x.shape[0], x.shape[1], *part.shape[2:])
        out[:, band] = part
    assert out is not None
    return out


def _with_halo(band: slice, halo: int, num_rows: int) -> tuple[slice, slice]:
    """The rows that a band depends on, and where among them it lies."""
    first = max(band.start - halo, 0)
    return (slice(first,
                  min(band.stop + halo,
                      num_rows)), slice(band.start - first, band.stop - first))


class _RecomputedBands(torch.autograd.Function):
    """Arguments as in apply_in_bands; parameters once to be asked for
    gradients, once to be given them."""

    @staticmethod
    def forward(ctx, function, bands, halo, parameters, num_tensors, x,
                *inputs):
        ctx.settings = function, bands, halo, parameters
        ctx.autocast = (torch.is_autocast_enabled('cpu'),
                        torch.get_autocast_dtype('cpu'))
        tensors = inputs[:num_tensors]
        ctx.save_for_backward(x, *tensors)
        return _run_in_bands(function, bands, halo, x, tensors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        function, bands, halo, parameters = ctx.settings
        enabled, dtype = ctx.autocast
        x, *tensors = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad[5:6 + len(tensors)]
        tensors = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(tensors, needs)
        ]
        grad_x = torch.zeros_like(x) if needs_x else None
        wanted = [t for t in tensors if t.requires_grad] + parameters
        sums: list = [None] * len(wanted)
        for band in bands:
            read, kept = _with_halo(band, halo, x.shape[1])
            part = x[:, read].detach().requires_grad_(needs_x)
            with torch.enable_grad(), torch.autocast('cpu', dtype, enabled):
                out = function(part, *tensors)[:, kept]
            grads = torch.autograd.grad(out, [part] * needs_x + wanted,
                                        grad[:, band])
            if grad_x is not None:
                grad_x[:, read] += grads[0]
                grads = grads[1:]
            for i, value in enumerate(grads):
                total = sums[i]
                sums[i] = value if total is None else total.add_(value)
        by_input = iter(sums)
        grads_tensors = [next(by_input) if needed else None for needed in needs]
        return (None, ) * 5 + (grad_x, *grads_tensors, *by_input)
