import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmhier import ops
from mmhier.ops import source
from mmhier.ops.finder import OperatorFinder
from mmhier.ops.operators import OPERATORS
from .conftest import REPOSITORY, run_python


def test_register_imports_nothing_and_comes_last_once():
    result = run_python(
        '-c', 'import sys\n'
        'from mmhier import ops\n'
        'ops.register(); ops.register()\n'
        'kinds = [type(finder).__name__ for finder in sys.meta_path]\n'
        'assert kinds.count("OperatorFinder") == 1, kinds\n'
        'assert kinds[-1] == "OperatorFinder", kinds\n'
        'for name in ("torch", "torchvision", "mmcv", "mmengine"):\n'
        '    assert name not in sys.modules, name\n')
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('name', ['mmcv', 'mmcv.ops', '_ext', 'mmcv._ext2'])
def test_finder_answers_for_nothing_else(name):
    assert OperatorFinder().find_spec(name) is None


@pytest.fixture
def empty_mmcv(tmp_path):
    """A folder for the path with an empty mmcv and, to be fast, no torch."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    (tmp_path / 'torch.py').touch()
    return tmp_path


def test_own_extension_is_not_replaced(empty_mmcv):
    own = empty_mmcv / 'mmcv/_ext.py'
    own.write_text('nms = "own"')
    result = run_python(
        '-c', 'from mmhier import ops\n'
        'ops.register()\n'
        'import mmcv._ext\n'
        'assert mmcv._ext.nms == "own"\n'
        'assert not hasattr(mmcv._ext, "softnms")\n'
        'assert ops.operator_source() == "compiled"\n'
        'print(ops.describe_operators())\n',
        path=empty_mmcv)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f'mmcv operators: compiled ({own})\n'


def test_broken_extension_is_reported_and_not_replaced(empty_mmcv):
    library = empty_mmcv / 'mmcv/_ext.so'
    library.write_bytes(b'not a library')
    result = run_python('-m', 'mmhier.ops', 'install', path=empty_mmcv)
    assert result.returncode == 1
    refusal, status = result.stdout.splitlines()
    assert refusal == 'mmcv has compiled operators: nothing written'
    assert status.startswith(
        f'mmcv operators: broken: {library} cannot be imported (')
    assert '--no-build-isolation' in status
    result = run_python('-c', 'import mmhier, mmcv._ext', path=empty_mmcv)
    assert result.returncode == 1
    assert 'ImportError' in result.stderr and '_ext.so' in result.stderr


def test_status_looks_without_importing(bare_mmcv):
    result = run_python(
        '-c', 'import sys\n'
        'from mmhier import ops\n'
        'assert ops.operator_source() == "torchvision"\n'
        'print(ops.describe_operators())\n'
        'for name in ("torch", "torchvision", "mmcv"):\n'
        '    assert name not in sys.modules, name\n',
        path=bare_mmcv.parent)
    assert result.returncode == 0, result.stderr
    assert 'RoIAlign' in result.stdout and 'torchvision' in result.stdout


def test_source_missing_without_mmcv(monkeypatch):
    monkeypatch.setattr(ops.shim, 'find_spec', lambda name: None)
    assert ops.operator_source() == 'missing'
    assert ops.describe_operators() == (
        'mmcv operators: missing: mmcv is not installed')


def test_source_missing_without_torchvision(fake_mmcv, monkeypatch):
    monkeypatch.setattr(source, 'find_spec', lambda name: None)
    assert ops.operator_source() == 'missing'
    assert 'torchvision is not installed' in ops.describe_operators()


def test_source_missing_before_registration(fake_mmcv, monkeypatch):
    assert ops.operator_source() == 'torchvision'
    monkeypatch.setattr(sys, 'meta_path', [
        finder
        for finder in sys.meta_path if not isinstance(finder, OperatorFinder)
    ])
    assert ops.operator_source() == 'missing'
    ops.register()
    assert ops.operator_source() == 'torchvision'


def test_unsupported_operator_names_itself_and_the_way_out(ext, monkeypatch):
    monkeypatch.setattr(source, 'version', {'onedl-mmcv': '2.3.6'}.get)
    with pytest.raises(NotImplementedError) as error:
        ext.correlation_forward(torch.zeros(1), kW=3)
    assert str(
        error.value).startswith('correlation_forward needs compiled mmcv: ')
    assert str(error.value).endswith(
        '\n    pip install "setuptools>=80" wheel "packaging>=24.2" ninja'
        '\n    pip install --force-reinstall --no-deps --no-cache-dir '
        '--no-build-isolation --no-binary onedl-mmcv onedl-mmcv==2.3.6')


def test_compile_commands_of_the_original_line(monkeypatch):
    monkeypatch.setattr(source, '_installed_version', {'mmcv-lite':
                                                       '2.1.0'}.get)
    uninstall, _, install = source.compile_commands()
    assert uninstall == 'pip uninstall -y mmcv-lite'
    assert install.endswith('--no-binary mmcv mmcv==2.1.0')


def test_private_names_are_no_operators(ext):
    assert not hasattr(ext, '__path__') and not hasattr(ext, '_ipython_')


def test_torchvision_without_kernel_for_device(ext):
    boxes = torch.zeros(1, 4).to_sparse()
    with pytest.raises(
            NotImplementedError,
            match="torchvision .* has no operator 'nms' for device 'cpu'"):
        ext.nms(boxes, torch.zeros(1), .5, 0)


def test_operators_are_not_seen_by_autograd(ext):
    feats = torch.zeros(1, 1, 4, 4, requires_grad=True)
    output = torch.zeros(1, 1, 1, 1)
    ext.roi_align_forward(feats, torch.tensor([[0., 0, 0, 2, 2]]), output,
                          output, output, 1, 1, 1., 0, 1, True)
    assert not output.requires_grad


def test_environment_report_says_who_computes(ext):
    assert ext.get_compiler_version().startswith('none: operators from torchv')
    assert ext.get_compiling_cuda_version() == ext.get_compiler_version()


def test_use_is_logged_once_in_the_main_process(bare_mmcv):
    result = run_python(
        '-c', 'import mmhier, multiprocessing, sys, torch\n'
        'from mmcv.ops import nms\n'
        'assert "torchvision" not in sys.modules\n'
        'from mmcv.utils import collect_env\n'
        'collect_env()\n'
        'print("imported")\n'
        'def use():\n'
        '    nms(torch.zeros(1, 4), torch.zeros(1), .5)\n'
        '    print("used", flush=True)\n'
        'child = multiprocessing.get_context("fork").Process(target=use)\n'
        'child.start(); child.join()\n'
        'use(); use()\n',
        path=bare_mmcv.parent)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    assert output.count('mmcv operators: ') == 1
    assert output.count('used') == 3
    lines = result.stdout.splitlines()
    assert ['mmcv operators: ' in line
            for line in lines[:4]] == [False, False, True, False]


@pytest.mark.parametrize('name', OPERATORS)
def test_table_names_functions_of_its_modules(name):
    """With the arguments of mmcv's, which its Python code passes by name."""
    module = importlib.import_module(f'mmhier.ops.{OPERATORS[name]}')
    assert getattr(module, name).__module__ == module.__name__


def test_install_page_lists_operators_that_are_not_replaced():
    page = (REPOSITORY / 'docs/install.md').read_text()
    folder = Path(find_spec('mmcv').origin).parent / 'ops'
    loaded = re.findall(r"load_ext\(\s*'_ext',\s*\[(.*?)\]",
                        ''.join(p.read_text() for p in folder.glob('*.py')),
                        re.DOTALL)
    names = set(re.findall(r"'(\w+)'", ' '.join(loaded)))
    assert len(names) > 100
    names -= {*OPERATORS, 'get_compiler_version', 'get_compiling_cuda_version'}
    for name in names:
        base = re.sub('(_coor)?_(forward|backward).*|_act_$', '', name)
        assert f'`{base}`' in page, name
