"""Lock files, which tell a running process from one that was killed."""
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout


def take_lock(path: str | Path) -> FileLock | None:
    """Lock a file without waiting; None if a process holds the lock.

    Args:
        path (str | Path): The lock file, created if missing. The lock ends
            with the process; the file stays until :func:`drop_lock`.
    """
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def drop_lock(lock: FileLock) -> None:
    """Remove a lock file and release its lock."""
    # In this order, so that nobody locks a file about to be removed. Windows
    # does not remove open files; there releasing does it.
    with suppress(PermissionError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
