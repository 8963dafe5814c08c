"""Each pytest worker gets one thread: small tensors gain nothing from more."""
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import mmengine.config.config
import pytest
import torch
from mmengine.dataset import base_dataset
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api
from mmhier.ops import shim
from tests import results
from tests.weights_server import no_network, weights_server  # noqa: F401

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    results.add_option(parser)


def pytest_terminal_summary(terminalreporter, config):
    results.record(terminalreporter, config)


def run_module(*arguments):
    """python -m with these arguments, in the root of the repository."""
    return subprocess.run([sys.executable, '-m', *arguments],
                          cwd=ROOT,
                          capture_output=True,
                          text=True)


@pytest.fixture(autouse=True)
def default_scope_of_its_own():
    """A runner leaves its default scope behind, and other tests none."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True, scope='session')
def datasets_without_garbage_collection():
    """Each dataset of mmengine calls gc.collect(), which takes half a second
    where it looks at all that the imports have made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_dataset, 'gc', SimpleNamespace(collect=lambda: None))
        yield


@pytest.fixture(autouse=True, scope='session')
def configs_written_without_layout():
    """Laying out the text of a config takes seconds in each run, and changes
    nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (yapf_api, mmengine.config.config):
            patch.setattr(
                module,
                'FormatCode',
                lambda text, **kwargs: (text, True),
                raising=False)
        yield


@pytest.fixture
def fake_mmcv(tmp_path, monkeypatch):
    """An installed mmcv of one empty file; nothing of it gets imported."""
    folder = tmp_path / 'mmcv'
    folder.mkdir()
    (folder / '__init__.py').touch()
    spec = ModuleSpec('mmcv', None, origin=str(folder / '__init__.py'))
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(shim, 'find_spec', lambda name: spec)
    return folder
