"""The configs that mmhier ships, by name."""
from fnmatch import fnmatchcase
from pathlib import Path


def zoo_root() -> Path:
    """Folder that holds ``configs/``: a checkout, or ``.mim`` of a wheel.

    Raises:
        FileNotFoundError: If the installed package lacks it.
    """
    package = Path(__file__).parent
    for root in (package.parent, package / '.mim'):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(
        f'no configs beside {package} or in its .mim folder: install mmhier '
        'again')


def find_configs(pattern: str = '*') -> dict[str, Path]:
    """Find configs by name.

    Args:
        pattern (str): Shell pattern, such as 'mask*hatnet*'. Defaults to
            '*'.

    Returns:
        dict[str, Path]: Files by name, which is that of the file without
        ``.py``, in alphabetical order.
    """
    files = (zoo_root() / 'configs').rglob('*.py')
    return {
        file.stem: file
        for file in sorted(files, key=lambda file: file.stem)
        if '_base_' not in file.parts and fnmatchcase(file.stem, pattern)
    }


def config_path(config: str) -> str:
    """Path of a config.

    Args:
        config (str): Path, or name of a config that mmhier ships.

    Returns:
        str: `config` itself unless it is such a name.
    """
    if Path(config).exists() or config.endswith('.py'):
        return config
    return str(find_configs().get(config, config))
