import importlib
import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import pytest
from mmhier.ops.finder import OperatorFinder

REPOSITORY = Path(__file__).parents[2]


def load_torchvision_ext():
    """Make the module that takes the place of a missing mmcv._ext."""
    spec = OperatorFinder().find_spec('mmcv._ext')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ext(monkeypatch):
    """mmhier's mmcv._ext, put behind mmcv.ops also where mmcv is compiled."""
    module = load_torchvision_ext()
    importlib.import_module('mmcv.ops')
    for name, wrapper in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(wrapper, 'ext_module'):
            monkeypatch.setattr(wrapper, 'ext_module', module)
    return module


@pytest.fixture
def bare_mmcv(tmp_path):
    """The installed mmcv, writable and without an _ext of any kind."""
    installed = Path(find_spec('mmcv').origin).parent
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    for path in installed.iterdir():
        if not path.name.startswith('_ext') and path.name != '__pycache__':
            (folder / path.name).symlink_to(path)
    return folder


def run_python(*arguments, path=None):
    """Run Python with mmhier, and first of all ``path``, on its path."""
    folders = [path, REPOSITORY, os.environ.get('PYTHONPATH')]
    environment = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join(str(f) for f in folders if f))
    return subprocess.run([sys.executable, *arguments],
                          env=environment,
                          cwd=path,
                          capture_output=True,
                          text=True)
