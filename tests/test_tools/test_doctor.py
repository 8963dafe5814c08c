"""The doctor in healthy, broken and empty environments."""
import contextlib
import importlib.metadata
import io
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import mmcv
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException
from mmhier.cli import doctor, doctor_runs

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'doctor.py'
MMCV = Path(mmcv.__file__).parent
INSTALL = f'{sys.executable} -m pip install'
AGAIN = f'{INSTALL} --force-reinstall --no-cache-dir'
REINSTALL = f'{AGAIN} --no-deps'
ARRAYS = (f'{REINSTALL} numpy==2.2.6 pycocotools==2.0.11 '
          'opencv-python-headless==4.12.0.88')
TORCH = f'{AGAIN} torch==2.11.0 torchvision==0.26.0 numpy==2.2.6'
OPENMMLAB = (f'{REINSTALL} onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 '
             'onedl-mmdetection==3.5.1 onedl-mmsegmentation==1.4.2 '
             'onedl-mmpretrain==1.3.6')
HEALTHY = dict(
    torch='2.11.0',
    torchvision='0.26.0',
    onedl_mmengine='0.10.12',
    onedl_mmcv='2.3.6',
    onedl_mmdetection='3.5.1',
    onedl_mmsegmentation='1.4.2',
    onedl_mmpretrain='1.3.6')


@pytest.fixture
def shadows(tmp_path, monkeypatch) -> Path:
    """A folder whose modules come before the installed ones."""
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return tmp_path


@pytest.fixture
def bare_mmcv(shadows) -> Path:
    """The installed mmcv without any `_ext`."""
    folder = shadows / 'mmcv'
    folder.mkdir()
    for entry in MMCV.iterdir():
        if not entry.name.startswith(('_ext', '__pycache__')):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def versions(monkeypatch):
    """Let the doctor see some distributions and no others."""

    def install(**found: str) -> None:

        def version(name: str) -> str:
            try:
                return found[name.replace('-', '_')]
            except KeyError:
                raise importlib.metadata.PackageNotFoundError(name) from None

        monkeypatch.setattr(doctor, 'version', version)

    return install


@pytest.fixture
def run_here(monkeypatch):
    """Run code of a check in this process, where tests break things."""

    def run(code: str) -> tuple[str, str]:
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(code, {})
        except Exception as error:
            return 'FAIL', f'{type(error).__name__}: {error}'.splitlines()[0]
        return 'ok', out.getvalue().splitlines()[-1]

    monkeypatch.setattr(doctor, 'run_child', run)


def raising(error: Exception):

    def run(*args, **kwargs):
        raise error

    return run


def fix(*findings: list[doctor.Finding], patch) -> int:
    """Exit status of --fix where examinations give these findings."""
    states = iter(findings)
    patch.setattr(doctor, 'examine', lambda: next(states))
    with pytest.raises(SystemExit) as end:
        doctor.main(['--fix'])
    return end.value.code


@pytest.mark.slow
def test_this_environment_is_healthy():
    done = subprocess.run([sys.executable, TOOL],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout
    for name in ('OpenMMLab', 'torch', 'import mmdet', *doctor.RUNS):
        assert re.search(f'^{name} +ok ', done.stdout, re.MULTILINE), name
    assert 'all 19 checks passed' in done.stdout


def test_empty_environment_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv('PYTHONPATH', raising=False)
    venv.create(tmp_path / 'empty', symlinks=True)
    python = tmp_path / 'empty' / 'bin' / 'python'
    done = subprocess.run([python, TOOL], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    for requirement in ('torch==2.11.0', 'onedl-mmdetection==3.5.1'):
        assert re.search(f'{python} -m pip install .*{requirement}',
                         done.stdout)
    assert re.search('import torch +FAIL  ModuleNotFoundError', done.stdout)
    assert re.search('save and resume +note  skipped', done.stdout)


@pytest.mark.parametrize(
    'module, code, detail, fix',
    [
        ('cv2', 'raise ImportError("libGL.so.1: cannot open\\n  object file")',
         'ImportError: libGL.so.1: cannot open', ARRAYS),
        ('torchvision', 'import os; os.abort()', 'crashed, code -6', TORCH),
        ('mmcv', 'import os; os.kill(os.getpid(), 9)',
         'killed, probably for lack of memory', OPENMMLAB),
        ('mmseg', 'import os; os._exit(0)', 'crashed, code 0', OPENMMLAB),
        ('mmdet', 'import time; time.sleep(60)', 'no answer in 2 s', OPENMMLAB),
        ('mmdet',
         'raise AssertionError("MMCV==2.2.0 is used but incompatible")',
         'AssertionError: MMCV==2.2.0 is used', OPENMMLAB),
        ('mmdet', 'import mmengine.absent', "No module named 'mmengine.absent'",
         OPENMMLAB),
        ('mmpretrain', 'raise ImportError("No module named \'ftfy\'")',
         "No module named 'ftfy'", f'{INSTALL} ftfy'),
        ('mmengine', 'raise ImportError("No module named \'yaml\'")',
         "No module named 'yaml'", f'{INSTALL} pyyaml'),
        ('mmengine', 'raise ImportError("No module named \'pkg_resources\'")',
         "No module named 'pkg_resources'", f"{INSTALL} 'setuptools<81'"),
        # Anybody may have published a distribution of this name.
        ('mmdet', 'import helpers', "No module named 'helpers'", ''),
    ])
def test_import_that_fails(shadows, monkeypatch, module, code, detail, fix):
    monkeypatch.setattr(doctor, 'CHILD_SECONDS', 2 if 'sleep' in code else 60)
    (shadows / f'{module}.py').write_text(code)
    found = doctor.check_import(module)
    assert found.state == 'FAIL' and detail in found.detail
    assert found.fix == fix


def test_import_that_works():
    found = doctor.check_import('json')
    assert found == doctor.Finding('import json', 'ok', '2.0.9')


@pytest.mark.parametrize('changes, detail', [
    (dict(torchvision='0.25.0'), 'they do not belong together'),
    (dict(torch='2.6.0', torchvision='0.21.0'), 'mmhier needs torch 2.7'),
    (dict(torchvision=''), 'not installed'),
])
def test_torch_and_torchvision_that_do_not_match(versions, changes, detail):
    versions(**HEALTHY)
    assert doctor.check_torch().state == 'ok'
    versions(**dict(HEALTHY, **changes))
    found = doctor.check_torch()
    assert found.state == 'FAIL' and detail in found.detail
    assert found.fix == TORCH


def test_torch_of_the_same_build_is_installed_again(versions):
    versions(**dict(HEALTHY, torch='2.11.0+cu128'))
    assert doctor.reinstall('torch') == (
        f'{AGAIN} --extra-index-url https://download.pytorch.org/whl/cu128 '
        'torch==2.11.0+cu128 torchvision==0.26.0+cu128 numpy==2.2.6')


def test_versions_of_a_wheel_are_those_that_it_states(versions, monkeypatch,
                                                      tmp_path):
    monkeypatch.setattr(doctor, 'ROOT', tmp_path)
    monkeypatch.setattr(
        doctor, 'requires', lambda name:
        ['torch>=2.7', 'onedl-mmcv<2.4,>=2.3.6; extra == "openmmlab"'])
    versions(torch='2.11.0')
    assert doctor.reinstall('mmcv') == (
        f'{REINSTALL} onedl-mmengine \'onedl-mmcv<2.4,>=2.3.6\' '
        'onedl-mmdetection onedl-mmsegmentation onedl-mmpretrain')
    assert " 'torch>=2.7' torchvision numpy" in doctor.reinstall('torch')


def test_lines_of_openmmlab(versions):
    versions(**HEALTHY)
    assert doctor.check_line().state == 'ok'
    versions(**HEALTHY, mmengine='0.10.7', mmcv='2.1.0')
    both = doctor.check_line()
    assert both.state == 'FAIL'
    assert both.fix.endswith('onedl-mmpretrain mmengine mmcv')
    versions(
        mmengine='0.10.7', mmcv='2.1.0', mmdet='3.3.0', mmsegmentation='1.2.2')
    original = doctor.check_line()
    assert original.detail == 'not installed: mmpretrain'
    assert original.fix == f'{AGAIN} mmpretrain==1.2.0'


@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
@pytest.mark.slow
def test_missing_operators_are_mended(bare_mmcv, monkeypatch):
    finding = doctor.check_run('operators')
    assert finding.state == 'note'
    assert finding.fix == f'{sys.executable} -m mmhier.ops install'
    monkeypatch.setenv('PYTHONPATH', f'{bare_mmcv.parent}:{ROOT}')
    assert fix([finding], [], patch=monkeypatch) == 0
    assert (bare_mmcv / '_ext.py').is_file()
    assert doctor.check_run('operators').state == 'ok'


@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
def test_operators_of_another_torch_are_named(bare_mmcv):
    suffix = sysconfig.get_config_var('EXT_SUFFIX')
    (bare_mmcv / f'_ext{suffix}').write_bytes(b'not a library')
    finding = doctor.check_run('operators')
    assert finding.state == 'FAIL' and f'_ext{suffix}' in finding.detail
    assert finding.fix == OPENMMLAB


def test_fix_runs_what_was_printed(shadows, monkeypatch, capfd):
    # Stands in for pip: notes its arguments.
    (shadows / 'pip.py').write_text(
        'import pathlib, sys\n'
        f'pathlib.Path({str(shadows / "called")!r}).write_text('
        '" ".join(sys.argv[1:]))')
    broken = doctor.Finding('import cv2', 'FAIL', 'libGL', ARRAYS)
    assert fix([broken, broken], [], patch=monkeypatch) == 0
    assert f'$ {ARRAYS}' in capfd.readouterr().out
    called = (shadows / 'called').read_text()
    assert f'{sys.executable} -m pip {called}' == ARRAYS
    assert fix([broken], [broken], patch=monkeypatch) == 1
    (shadows / 'pip.py').write_text('raise SystemExit(3)')
    assert fix([broken], patch=monkeypatch) == (
        'error: this command failed, and those after it were not run: ' +
        ARRAYS)


def test_page(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, 'check_import', lambda module: doctor.Finding(
            f'import {module}', 'FAIL', 'broken', 'mend'))
    assert {f.state for f in doctor.examine()[-5:]} == {'note'}
    out = capsys.readouterr().out
    assert '\nimport mmcv: broken\n    mend\n' in out
    assert '\n11 of 19 checks failed\n' in out


def spawn_failure(message: str):
    return raising(
        ProcessRaisedException(f'\n-- Process 0:\nTraceback\n{message}', 0, 1))


MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize('name, target, fault, detail, expected', [
    ('operators', 'mmhier.cli.doctor_runs.nms', lambda *_, **__:
     (0, torch.arange(3)), 'nms keeps [0, 1, 2], not [0, 2]', TORCH),
    ('operators', 'mmhier.cli.doctor_runs.nms',
     raising(NotImplementedError("Could not run 'torchvision::nms'")),
     'Could not run', TORCH),
    ('operators', 'torch.from_numpy',
     raising(RuntimeError('Numpy is not available')), 'Numpy is not', ARRAYS),
    ('training step', 'torch.Tensor.backward', lambda *_: None,
     'parameters without gradient', TORCH),
    ('training step', 'torch.Tensor.backward', raising(MEMORY), 'memory', ''),
    ('save and resume', 'mmhier.cli.doctor_runs.read_checkpoint',
     lambda _: dict(meta=dict(iter=1)), 'iterations are (1, 4)', OPENMMLAB),
    ('save and resume', 'mmengine.runner.Runner.train',
     raising(OSError(28, 'No space left on device')), 'no space is left', ''),
    ('two processes', 'torch.multiprocessing.spawn',
     spawn_failure('AssertionError: gradient 1.0, not the mean of 1 and 3'),
     'gradient 1.0', TORCH),
    ('two processes', 'torch.multiprocessing.spawn',
     spawn_failure('RuntimeError: connection refused'), 'GLOO_SOCKET_IFNAME',
     ''),
])
def test_faults_of_the_runs(name, target, fault, detail, expected, versions,
                            run_here, tmp_path, monkeypatch):
    versions(onedl_mmengine='0.10.12')
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(target, fault)
        found = doctor.check_run(name)
    assert found.state == 'FAIL' and detail in found.detail
    assert found.fix == expected


@pytest.mark.parametrize('smi, built, state, detail, build', [
    ('CUDA Version: 12.4', '13.0', 'FAIL', 'supports CUDA 12.4', 'cu126'),
    ('CUDA Version: 12.9', '13.0', 'FAIL', 'supports CUDA 12.9', 'cu128'),
    ('CUDA Version: 13.1', None, 'FAIL', 'CUDA None', 'cu130'),
    ('CUDA Version: 11.4', None, 'note', 'supports CUDA 11.4', ''),
    ('CUDA Version: 13.1', '13.0', 'FAIL', 'finds no GPU: see', ''),
    ("couldn't communicate", '13.0', 'FAIL', 'does not reach the driver', ''),
    (None, '13.0', 'ok', 'runs on the CPU', ''),
])
def test_torch_that_does_not_suit_the_driver(tmp_path, monkeypatch, smi, built,
                                             state, detail, build):
    if smi is not None:
        program = tmp_path / 'nvidia-smi'
        program.write_text(f'#!/bin/sh\necho "{smi}"')
        program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin' if smi else str(tmp_path))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.version, 'cuda', built)
    found = doctor_runs.gpu()
    assert found.state == state and detail in found.detail
    assert bool(found.fix) == bool(build)
    assert not build or f'torch==2.11.0+{build} ' in found.fix
