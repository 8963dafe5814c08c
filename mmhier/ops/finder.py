"""The module ``mmcv._ext`` for a mmcv that was installed without one."""
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def get_operator(name: str) -> Callable:
    """Get what ``mmcv._ext.<name>`` is where mmcv has no compiled operators.

    It is the ``__getattr__`` of the module that takes the place of
    ``mmcv._ext``, so that mmcv's modules, which ask for all of their
    operators when they are imported, can be imported.

    Args:
        name (str): Name of an operator of mmcv, e.g. ``'nms'``.

    Returns:
        Callable: The operator on torchvision and torch, or a function that
        raises NotImplementedError where there is none of this name.

    Raises:
        AttributeError: If ``name`` starts with an underscore: no operator's
            name does, and Python probes modules for such attributes.
    """
    if name.startswith('_'):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")
    from . import operators
    if name in operators.OPERATORS:
        return operators.make_operator(name)
    if name in ('get_compiler_version', 'get_compiling_cuda_version'):
        return operators.get_compiler_version
    return operators.make_unsupported_operator(name)


class OperatorLoader(Loader):
    """Fills the module ``mmcv._ext`` with :func:`get_operator`."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Make every operator an attribute of ``module``."""
        module.__getattr__ = get_operator  # type: ignore[method-assign]


class OperatorFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` when nothing before it on the meta path did."""

    def find_spec(self,
                  fullname: str,
                  path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a spec for ``mmcv._ext``, None for every other module."""
        if fullname == 'mmcv._ext':
            return ModuleSpec(fullname, OperatorLoader(), origin=__name__)
        return None


def is_registered() -> bool:
    """Whether :func:`register` was called in this process."""
    return any(isinstance(finder, OperatorFinder) for finder in sys.meta_path)


def register() -> None:
    """Offer torchvision's operators to a mmcv that has none of its own.

    The finder goes to the end of ``sys.meta_path``. It is asked only for a
    ``mmcv._ext`` that Python found nowhere else, so compiled operators are
    never replaced. Calling it again changes nothing.
    """
    if not is_registered():
        sys.meta_path.append(OperatorFinder())
