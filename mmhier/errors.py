"""Telling a user's mistake, which gets one line, from a bug, which gets a
traceback."""
import dis
import errno
import io
import os.path as osp
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mmhier

_MMHIER_DIR = osp.join(osp.dirname(mmhier.__file__), '')
_FULL = (errno.ENOSPC, errno.EDQUOT)


class MMHierError(ValueError):
    """A mistake in the command, the config, the data or a checkpoint.

    Its message names the offending key, value or file and what to do.
    """


@contextmanager
def mistakes_as_user_errors() -> Iterator[None]:
    """Raise MMHierError for what mmhier or a registry found wrong.

    Taken for a user's mistake are a ValueError that a ``raise`` statement of
    mmhier states (an unknown ``arch``, an input that is too small, a damaged
    checkpoint), a registry that knows no such type, and a constructor that
    does not take a key of the config. So is a full disk. Everything else
    passes through as it is.

    Raises:
        MMHierError: In place of these errors, with their message.
    """
    try:
        yield
    except MMHierError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        if _is_mistake(error):
            message = error.args[0] if error.args else str(error)
            raise MMHierError(message) from error
        raise
    except OSError as error:
        if error.errno in _FULL:
            where = f' for {error.filename}' if error.filename else ''
            raise MMHierError(
                f'the disk is full: no space is left{where}. What was written '
                'before is kept: make room, then go on') from error
        raise


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


def _is_mistake(error: BaseException) -> bool:
    """Whether mmhier states the error, or a registry could not build.

    Registries of the original OpenMMLab line raise such an error again at
    each level of the config, so the chain is followed to its origin.
    """
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if code.co_name == '__init__' and isinstance(error, TypeError):
        # A key that the constructor handed on to that of its base class.
        match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        handed_on = trace.tb_frame.f_locals.get('kwargs', {})
        if match and match[1] in handed_on:
            return True
    if isinstance(error, ValueError):
        raises = code.co_code[trace.tb_lasti] == dis.opmap['RAISE_VARARGS']
        if raises and code.co_filename.startswith(_MMHIER_DIR):
            return True
    elif osp.join('mmengine', 'registry', '') in code.co_filename:
        return True
    origin = error.__context__
    return type(origin) is type(error) and _is_mistake(origin)


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool's main function; end with 'error: ...' on a MMHierError.

    Args:
        main (Callable): Called without arguments.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: the name of a file must not end what prints it.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main()
    except MMHierError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
