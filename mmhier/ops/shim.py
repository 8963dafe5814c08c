"""The file that gives operators to processes which never import mmhier.

mmdet's and mmseg's own tools, and their worker processes, import mmcv's
operators before anything of mmhier. A file ``mmcv/_ext.py`` hands over to
:mod:`mmhier.ops.handover` there.
"""
import importlib
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from mmhier.files import write_text

SHIM_MARK = '# written by `python -m mmhier.ops install`'
SHIM_TEXT = (f'from mmhier.ops.handover import __getattr__  {SHIM_MARK}\n')


def find_mmcv_folder() -> Path | None:
    """Find the folder of the installed mmcv without importing it.

    Returns:
        Path, optional: The folder, None where mmcv is not installed. A
        folder without ``__init__.py``, as uninstalling mmcv can leave
        behind, is no mmcv.
    """
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def is_shim(path: Path) -> bool:
    """Whether a file is the one that :func:`install_shim` writes."""
    return (path.name == '_ext.py' and path.is_file()
            and SHIM_MARK in path.read_text(errors='replace'))


def install_shim() -> Path | None:
    """Write ``mmcv/_ext.py``, which hands over to :mod:`mmhier.ops`.

    Nothing is written where mmcv has compiled operators, for whichever
    Python they are, nor where the file is there already.

    Uninstalling mmcv leaves this file behind: call :func:`remove_shim`
    before or after.

    Returns:
        Path, optional: The file, None where mmcv has compiled operators.

    Raises:
        ModuleNotFoundError: If mmcv is not installed.
        FileExistsError: If there is a ``mmcv/_ext.py`` of somebody else.
        PermissionError: If mmcv's folder cannot be written.
    """
    folder = find_mmcv_folder()
    if folder is None:
        raise ModuleNotFoundError(
            'mmcv is not installed: run `pip install "mmhier[openmmlab]"`')
    if [*folder.glob('_ext*.so'), *folder.glob('_ext*.pyd')]:
        return None
    path = folder / '_ext.py'
    if path.exists() and not is_shim(path):
        raise FileExistsError(
            f'{path} is there and was not written by mmhier: it stays as it '
            'is; move it away if mmcv shall use the operators of mmhier.ops')
    if not path.exists() or path.read_text() != SHIM_TEXT:
        try:
            write_text(path, SHIM_TEXT)
        except PermissionError as error:
            raise PermissionError(
                f'{path} cannot be written: {folder} is read-only for this '
                'user; `import mmhier` before mmdet does the same for one '
                'process') from error
        importlib.invalidate_caches()
    return path


def remove_shim() -> Path | None:
    """Remove the file that :func:`install_shim` wrote, and no other.

    Returns:
        Path, optional: The file removed, None where there was none of ours.
    """
    spec = find_spec('mmcv')
    # Not find_mmcv_folder: the file may outlive the mmcv it was written for.
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / '_ext.py'
        if is_shim(path):
            path.unlink()
            Path(cache_from_source(str(path))).unlink(missing_ok=True)
            importlib.invalidate_caches()
            return path
    return None
