"""Processes and names of a run, where mmengine's do not fit."""
import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmhier.errors import MMHierError

_timestamps: set[str] = set()


def join_cpu_processes(launcher: str) -> None:
    """Join the processes of torchrun on CPUs; do nothing elsewhere.

    mmengine would give each process a CUDA device.

    Args:
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
    """
    if (launcher != 'pytorch' or get_device() != 'cpu'
            or torch.distributed.is_initialized()):
        return
    torch.distributed.init_process_group('gloo')
    atexit.register(_leave_processes)


def _leave_processes() -> None:
    """End gloo's threads, with which a process would exit by SIGABRT."""
    # Runners, which hold the group in cycles, keep its threads alive.
    gc.collect()
    torch.distributed.destroy_process_group()


@contextmanager
def naming_used_port() -> Iterator[None]:
    """Report in one line that processes cannot meet at their port.

    Raises:
        MMHierError: In place of torch's error on an address in use.
    """
    try:
        yield
    except RuntimeError as error:
        if 'EADDRINUSE' not in str(error):
            raise
        raise MMHierError(
            f'port {os.environ.get("MASTER_PORT")} is in use: set another one '
            'with --master_port of torchrun, or PORT=... before '
            'tools/dist_train.sh') from error


def unique_timestamp(timestamp: str) -> str:
    """Make a timestamp that no other run of the process has.

    mmengine's tells seconds. Loggers, message hubs and visualizers are shared
    by name, so two runs within a second would write to the folders of one.

    Args:
        timestamp (str): Time in seconds.

    Returns:
        str: The same, with a number if it is taken.
    """
    unique, number = timestamp, 1
    while unique in _timestamps:
        number += 1
        unique = f'{timestamp}_{number}'
    _timestamps.add(unique)
    return unique
