"""Where mmcv's operators come from in this environment."""
import importlib
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from .finder import is_registered
from .shim import find_mmcv_folder, is_shim


def operator_source() -> str:
    """Say where mmcv's operators come from.

    torch and mmcv are imported only where mmcv has an ``_ext`` of its own:
    whether that works can be known in no other way.

    Returns:
        str: One of

        - ``'compiled'``: mmcv's own ``_ext``, which can be imported.
        - ``'torchvision'``: mmhier's, through its import hook or the file
          that :func:`install_shim` wrote.
        - ``'missing'``: none; mmcv or torchvision is not installed.
        - ``'broken'``: mmcv's own ``_ext`` is there but cannot be imported,
          e.g. as it was compiled against another torch.
    """
    return _inspect_operators()[0]


def _inspect_operators() -> tuple[str, str]:
    """Return the source and what a reader wants to know about it."""
    mmcv_folder = find_mmcv_folder()
    if mmcv_folder is None:
        return 'missing', 'mmcv is not installed'
    spec = PathFinder.find_spec('mmcv._ext', [str(mmcv_folder)])
    if (spec is not None and spec.origin is not None
            and not is_shim(Path(spec.origin))):
        return _inspect_own_extension(spec.origin)
    if find_spec('torchvision') is None:
        return 'missing', ('mmcv has no compiled operators and torchvision '
                           'is not installed')
    if spec is None and not is_registered():
        return 'missing', ('mmcv has no compiled operators and '
                           'mmhier.ops.register() was not called')
    path_taken = f'through {spec.origin}' if spec else 'by importing mmhier'
    return 'torchvision', (
        f'NMS, RoIAlign, deformable convolution and others from torchvision '
        f'{_installed_version("torchvision")}, {path_taken}; mmcv has no '
        'compiled operators')


def _inspect_own_extension(path: str) -> tuple[str, str]:
    try:
        importlib.import_module('torch')
        module = importlib.import_module('mmcv._ext')
    except ImportError as error:
        return 'broken', (f'{path} cannot be imported ({error}); compile it '
                          f'again: {" && ".join(compile_commands())}')
    return 'compiled', f'compiled ({module.__file__})'


def describe_operators() -> str:
    """Describe in one line where mmcv's operators come from.

    Returns:
        str: E.g. ``'mmcv operators: compiled (<file>)'``; for ``'broken'``
        it ends with the commands that compile mmcv again.
    """
    source, detail = _inspect_operators()
    if source in ('missing', 'broken'):
        detail = f'{source}: {detail}'
    return f'mmcv operators: {detail}'


def compile_commands() -> list[str]:
    """List the commands that compile the operators of the installed mmcv.

    Build isolation hides torch from mmcv's setup.py, which then builds no
    operators and says nothing; pip's cache may hold a wheel from such a
    build. Hence both are switched off.
    """
    options = '--no-deps --no-cache-dir --no-build-isolation --no-binary'
    maintained = _installed_version('onedl-mmcv')
    if maintained:
        return [
            'pip install "setuptools>=80" wheel "packaging>=24.2" ninja',
            f'pip install --force-reinstall {options} onedl-mmcv '
            f'onedl-mmcv=={maintained}'
        ]
    original = _installed_version('mmcv-lite') or _installed_version('mmcv')
    requirement = f'mmcv=={original}' if original else 'mmcv'
    return [
        'pip uninstall -y mmcv-lite', 'pip install "setuptools<81" wheel ninja',
        f'pip install --force-reinstall {options} mmcv {requirement}'
    ]


def indented_compile_commands() -> str:
    """Format :func:`compile_commands` for an error message."""
    return '\n'.join(f'    {command}' for command in compile_commands())


def _installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
