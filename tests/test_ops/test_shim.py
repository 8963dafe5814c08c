import os

import pytest
from mmhier import ops
from mmhier.ops.shim import SHIM_TEXT
from .conftest import run_python


def test_install_and_remove_are_idempotent(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    assert ops.install_shim() == path
    assert path.read_text() == SHIM_TEXT and SHIM_TEXT.count('\n') == 1
    modified = path.stat().st_mtime_ns
    assert ops.install_shim() == path
    assert path.stat().st_mtime_ns == modified
    assert ops.operator_source() == 'torchvision'
    assert str(path) in ops.describe_operators()
    assert ops.remove_shim() == path
    assert ops.remove_shim() is None
    assert [p.name for p in fake_mmcv.iterdir()] == ['__init__.py']


def test_shim_of_another_version_is_renewed(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    path.write_text('import this  ' + SHIM_TEXT.partition('  ')[2])
    ops.install_shim()
    assert path.read_text() == SHIM_TEXT


@pytest.mark.parametrize('name', [
    '_ext.cpython-311-x86_64-linux-gnu.so', '_ext.cp310-win_amd64.pyd',
    '_ext.so'
])
def test_nothing_is_written_beside_compiled_operators(fake_mmcv, name):
    (fake_mmcv / name).write_bytes(b'machine code')
    assert ops.install_shim() is None
    assert ops.remove_shim() is None
    assert (fake_mmcv / name).read_bytes() == b'machine code'
    assert not (fake_mmcv / '_ext.py').exists()


def test_file_of_somebody_else_is_left_alone(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    path.write_text('nms = None')
    with pytest.raises(FileExistsError, match=f'{path} is there and was not'):
        ops.install_shim()
    assert ops.remove_shim() is None
    assert path.read_text() == 'nms = None'


def test_install_without_mmcv(monkeypatch):
    monkeypatch.setattr(ops.shim, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='mmcv is not installed'):
        ops.install_shim()
    assert ops.remove_shim() is None


def test_remove_after_mmcv_was_uninstalled(fake_mmcv):
    ops.install_shim()
    spec = ops.shim.find_spec('mmcv')
    spec.origin = None
    assert ops.operator_source() == 'missing'
    with pytest.raises(ModuleNotFoundError, match='mmcv is not installed'):
        ops.install_shim()
    assert ops.remove_shim() == fake_mmcv / '_ext.py'


def test_install_into_read_only_folder(fake_mmcv, monkeypatch):

    def deny(**kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(ops.shim.tempfile, 'mkstemp', deny)
    with pytest.raises(PermissionError, match='_ext.py cannot be written'):
        ops.install_shim()
    assert os.listdir(fake_mmcv) == ['__init__.py']


def test_command_line(bare_mmcv):

    def run(action):
        result = run_python('-m', 'mmhier.ops', action, path=bare_mmcv.parent)
        assert result.returncode == 0, result.stderr
        first, *others = result.stdout.splitlines()
        assert others[-1:] == [] or others[-1].startswith('mmcv operators: ')
        return first

    path = bare_mmcv / '_ext.py'
    assert run('status').endswith('by importing mmhier; mmcv has no compiled '
                                  'operators')
    assert run('install') == f'{path} hands over to mmhier.ops'
    assert f'through {path}' in run('status')
    assert run('remove') == f'removed {path}'
    assert run('remove') == 'mmcv/_ext.py is not from mmhier: nothing removed'


def test_command_line_reports_errors_in_one_line(bare_mmcv):
    (bare_mmcv / '_ext.py').write_text('nms = None')
    result = run_python('-m', 'mmhier.ops', 'install', path=bare_mmcv.parent)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: {bare_mmcv}/_ext.py is there')
    assert len(result.stderr.splitlines()) == 1


def test_mmdet_runs_without_importing_mmhier(bare_mmcv):
    run_python('-m', 'mmhier.ops', 'install', path=bare_mmcv.parent)
    result = run_python(
        '-c', 'import sys, torch\n'
        'from mmdet.models.layers import multiclass_nms\n'
        'boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8]])\n'
        'scores = torch.tensor([[.9, .1], [.8, .2]])\n'
        'dets, _ = multiclass_nms(boxes, scores, .05, '
        'dict(type="nms", iou_threshold=.5))\n'
        'assert len(dets) == 1\n'
        'print(sys.modules["mmcv._ext"].__file__)\n',
        path=bare_mmcv.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(bare_mmcv / '_ext.py')
