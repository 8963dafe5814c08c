"""Errors of a config: types and arguments that no registry knows."""
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getmro, isclass
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry
from mmhier.errors import MMHierError

_UNKNOWN = re.compile(r'([\w.:]+) is not in the (\S+) registry')
_UNEXPECTED = re.compile(
    r"([\w.<>]+)\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'([\w.<>]+)\(\) missing \d+ required [a-z- ]*'
                      r'arguments?: (.+)')
# Packages of mmengine's writers of logs.
_LOG_PACKAGES = {
    'AimVisBackend': 'aim',
    'ClearMLVisBackend': 'clearml',
    'DVCLiveVisBackend': 'dvclive',
    'MLflowVisBackend': 'mlflow',
    'NeptuneVisBackend': 'neptune',
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
}


def check_log_packages(cfg: Config) -> None:
    """Check that the packages that a config logs by are installed.

    Args:
        cfg (Config): May have no ``visualizer``.

    Raises:
        MMHierError: Names the key and the package.
    """
    visualizer = cfg.get('visualizer')
    backends = (visualizer.get('vis_backends')
                if isinstance(visualizer, dict) else None) or ()
    for i, backend in enumerate(backends):
        kind = backend.get('type') if isinstance(backend, dict) else None
        name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
        package = _LOG_PACKAGES.get(name)
        if package is None:
            continue
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MMHierError(
                f'visualizer.vis_backends.{i}: {name} needs {package}, which '
                f'is not installed: run pip install {package}, or take it out '
                'of the config') from error


@contextmanager
def naming_config_errors(cfg: Config | dict[str, Any]) -> Iterator[None]:
    """Report what of a config cannot be built, by its key.

    A registry's KeyError or a constructor's TypeError is the user's mistake
    only if the config states the type and the argument that it names;
    any other is a bug and passes through.

    Args:
        cfg (Config | dict): What is built in the body.

    Raises:
        MMHierError: Names the key, the type and the argument.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        explain = _explain_type if isinstance(error,
                                              KeyError) else _explain_argument
        message = explain(str(error), cfg)
        if message is None:
            raise
        raise MMHierError(message) from error


def _explain_type(text: str, cfg: Config | dict[str, Any]) -> str | None:
    match = _UNKNOWN.search(text)
    if match is None:
        return None
    name, registry = match.groups()
    for key, part in _iter_types(cfg, ''):
        if part['type'] == name:
            return (f'{key}.type: {name} is not in the {registry} registry; '
                    'check its spelling, its package and default_scope, or '
                    'import its module by custom_imports')
    return None


def _explain_argument(text: str, cfg: Config | dict[str, Any]) -> str | None:
    match = _UNEXPECTED.search(text)
    if match is not None:
        function, argument = match.groups()
        for key, part in _iter_types(cfg, ''):
            if argument in part and _builds_with(part['type'], function):
                return (f'{key}: {_name(part["type"])} got an unexpected '
                        f"keyword argument '{argument}': remove it, or correct "
                        'its name')
        return None
    match = _MISSING.search(text)
    if match is None:
        return None
    function = match[1]
    missing = re.findall(r"'(\w+)'", match[2])
    for key, part in _iter_types(cfg, ''):
        # Layers of norm_cfg and the like are given arguments by others.
        if (not key.endswith('_cfg') and not set(missing) & set(part)
                and _builds_with(part['type'], function)):
            return (f'{key}: {_name(part["type"])} needs the argument '
                    f'{", ".join(missing)}')
    return None


def _iter_types(value: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Dotted keys and dicts of what a config builds, the innermost first."""
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _iter_types(item, f'{key}.{i}')
    elif isinstance(value, (dict, Config)):
        for name, item in value.items():
            yield from _iter_types(item, f'{key}.{name}')
        if 'type' in value:
            yield key.lstrip('.'), value


def _builds_with(kind: Any, function: str) -> bool:
    """Whether building a type calls a function or a constructor.

    Args:
        kind (str | type): Type that a config states.
        function (str): Qualified name, such as 'BaseModule.__init__'.
    """
    owner = function.removesuffix('.__init__')
    for found in [kind] if not isinstance(kind, str) else _find(kind):
        names = [found] if not isclass(found) else getmro(found)
        if any(getattr(item, '__qualname__', None) == owner for item in names):
            return True
    return False


def _find(name: str) -> Iterator[Any]:
    """Types of a name in mmengine's registries and those of the scope."""
    scope = DefaultScope.get_current_instance()
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            child = scope and root.children.get(scope.scope_name)
            found = (child or root).get(name)
            if found is not None:
                yield found


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__
