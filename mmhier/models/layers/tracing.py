"""Whether a graph is being recorded, which decides what may depend on data."""
import torch


def is_traced() -> bool:
    """Whether a compiler, an exporter or torch.jit watches this call.

    It should see plain operators, without caches or functions of our own:
    what it makes of them is meant for other sizes and weights too.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
