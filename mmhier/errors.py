"""The error of a user's mistake, and how a tool reports it."""
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)


class MMHierError(ValueError):
    """A mistake in the command, the config, the data or a checkpoint.

    Its message names the offending key, value or file and what to do.
    """


@contextmanager
def naming_full_disk() -> Iterator[None]:
    """Report a full disk in one line.

    Raises:
        MMHierError: In place of the OSError of a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f' for {error.filename}' if error.filename else ''
        raise MMHierError(
            f'the disk is full: no space is left{where}. Files written before '
            'are kept: make room, then go on') from error


def require_utf8(name: str, value: Any) -> None:
    """Check that strings can be written into logs and records.

    The bytes of a path need not be UTF-8, but those of a text file.

    Args:
        name (str): What the value is, for the message.
        value (Any): A string, or strings in dicts, lists and tuples; others
            pass.

    Raises:
        MMHierError: If a string stands for bytes that are not UTF-8.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            require_utf8(name, item)
    elif isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            shown = value.encode(errors='surrogateescape').decode(
                errors='backslashreplace')
            raise MMHierError(
                f'{name} {shown} holds bytes that are not UTF-8, which logs '
                'and records cannot name: rename it, or make a symbolic link '
                'to it') from error


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool's main function; end with 'error: ...' on a MMHierError.

    The traceback of any error goes to the log file of the run. That of a
    MMHierError is printed only if the environment variable
    ``MMHIER_TRACEBACK`` is 1.

    Args:
        main (Callable): Called without arguments.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: the name of a file must not end what prints it.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        with naming_full_disk():
            main()
    except MMHierError as error:
        _log_traceback()
        if os.environ.get('MMHIER_TRACEBACK') == '1':
            traceback.print_exc()
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except Exception:
        _log_traceback()
        raise


def _log_traceback() -> None:
    """Write the current traceback to the log files of mmengine's logger."""
    # Not imported for this: without a runner there is no log file.
    mmengine_logging = sys.modules.get('mmengine.logging')
    if mmengine_logging is None:
        return
    logger = mmengine_logging.MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0,
                               'ended by an error', (), sys.exc_info())
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
