"""Memory that autograd keeps between the passes."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def collect_saved_bytes(known: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Collect what a forward pass within keeps for the backward pass.

    Args:
        known (Iterable[Tensor]): Tensors whose storages are left out.

    Yields:
        dict[int, int]: Bytes of each storage by its address.
    """
    addresses = {x.untyped_storage().data_ptr() for x in known}
    saved: dict[int, int] = {}
    kept = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in addresses:
                saved[storage.data_ptr()] = storage.nbytes()
                kept.append(storage)  # or its address may be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        yield saved
