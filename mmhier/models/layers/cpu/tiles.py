"""Process feature maps in row tiles that fit in cache.

The wide maps within a block take several times the memory of its input and
output. On a CPU, memory outside the cache is slower than the arithmetic, and
memory fresh from the system slower still. So the widest parts of a block are
computed one row tile at a time. In training only their input is kept, and
the backward pass computes each tile again.
"""
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from ..dynamic import is_traced

# Of the widest intermediate map of a tile, in inference and in training.
TILE_BYTES = 2**22
TRAINING_TILE_BYTES = 2**23


def row_tiles(x: Tensor, width: int, multiple: int = 1) -> list[slice]:
    """Row tiles of a map.

    Args:
        x (Tensor): (B, rows, ..., C).
        width (int): Channels of the widest intermediate map.
        multiple (int): Every tile but the last one holds a multiple of this
            many rows. Defaults to 1.

    Returns:
        list[slice]: Even slices that cover all rows; a single one on other
        devices than a CPU and while a graph is recorded.
    """
    num_rows = x.shape[1]
    if x.device.type != 'cpu' or is_traced():
        return [slice(0, num_rows)]
    positions = x.numel() // x.shape[-1]
    limit = TRAINING_TILE_BYTES if torch.is_grad_enabled() else TILE_BYTES
    count = max(1, round(positions * width * x.element_size() / limit))
    rows = -(-num_rows // (count * multiple)) * multiple
    return [
        slice(first, min(first + rows, num_rows))
        for first in range(0, num_rows, rows)
    ]


def apply_by_tiles(
    function: Callable[..., Tensor],
    x: Tensor,
    width: int,
    multiple: int = 1,
    halo: int = 0,
    tensors: Sequence[Tensor] = (),
    parameters: Iterable[nn.Parameter] = ()
) -> Tensor:
    """``function(x, *tensors)``, one row tile at a time where it pays.

    Args:
        function (Callable): Takes (B, rows, ..., C) to (B, rows, ..., C'),
            each group of `multiple` rows by itself. Deterministic.
        x (Tensor): (B, rows, ..., C).
        width (int): Channels of the widest intermediate map.
        multiple (int): Number of rows that belong together. Defaults to 1.
        halo (int): How many rows above and below it a row depends on.
            Defaults to 0.
        tensors (Sequence[Tensor]): More arguments, the same for every tile.
            Defaults to ().
        parameters (Iterable[nn.Parameter]): All that `function` may read.
            Defaults to ().

    Returns:
        Tensor: (B, rows, ..., C').
    """
    tiles = row_tiles(x, width, multiple)
    if len(tiles) == 1:
        return function(x, *tensors)
    if not torch.is_grad_enabled():
        return _run_tiles(function, tiles, halo, x, tensors)
    trained = [p for p in parameters if p.requires_grad]
    return _RecomputedTiles.apply(function, tiles, halo, trained, len(tensors),
                                  x, *tensors, *trained)


def _run_tiles(function: Callable[..., Tensor], tiles: list[slice], halo: int,
               x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    out: Tensor | None = None
    for tile in tiles:
        read, kept = _with_halo(tile, halo, x.shape[1])
        part = function(x[:, read], *tensors)[:, kept]
        if out is None:
            out = part.new_empty(x.shape[0], x.shape[1], *part.shape[2:])
        out[:, tile] = part
    assert out is not None
    return out


def _with_halo(tile: slice, halo: int, num_rows: int) -> tuple[slice, slice]:
    """The rows that a tile depends on, and the place of the tile in them."""
    first = max(tile.start - halo, 0)
    return (slice(first,
                  min(tile.stop + halo,
                      num_rows)), slice(tile.start - first, tile.stop - first))


class _RecomputedTiles(torch.autograd.Function):
    """Arguments as in apply_by_tiles; parameters once to ask for their
    gradients, once to return these."""

    @staticmethod
    def forward(ctx, function, tiles, halo, parameters, num_tensors, x,
                *inputs):
        ctx.settings = function, tiles, halo, parameters
        ctx.autocast = (torch.is_autocast_enabled('cpu'),
                        torch.get_autocast_dtype('cpu'))
        tensors = inputs[:num_tensors]
        ctx.save_for_backward(x, *tensors)
        out = _run_tiles(function, tiles, halo, x, tensors)
        if ctx.autocast[0]:
            # Torch 2.7 keeps casts of weights that were made without a graph,
            # and a backward pass under autocast would find no gradients.
            torch.clear_autocast_cache()
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        function, tiles, halo, parameters = ctx.settings
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
        for tile in tiles:
            read, kept = _with_halo(tile, halo, x.shape[1])
            part = x[:, read].detach().requires_grad_(needs_x)
            with torch.enable_grad(), torch.autocast('cpu', dtype, enabled):
                out = function(part, *tensors)[:, kept]
            grads = torch.autograd.grad(
                out, [part] * needs_x + wanted,
                grad[:, tile],
                allow_unused=True)
            if grad_x is not None:
                grad_x[:, read] += grads[0]
                grads = grads[1:]
            for i, value in enumerate(grads):
                if value is not None:
                    total = sums[i]
                    sums[i] = value if total is None else total.add_(value)
        by_input = iter(sums)
        grads_tensors = [next(by_input) if needed else None for needed in needs]
        return (None, ) * 5 + (grad_x, *grads_tensors, *by_input)
