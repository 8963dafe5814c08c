"""The doctor in healthy, broken and empty environments."""
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import mmcv
import mmcv.ops
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException
from mmhier.models import HATNet
from .test_bad_checkpoint import Executes

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'doctor.py'
MMCV = Path(mmcv.__file__).parent
INSTALL = f'{sys.executable} -m pip install'
REINSTALL = f'{INSTALL} --force-reinstall --no-deps --no-cache-dir'
ARRAYS = [
    f'{REINSTALL} numpy==2.2.6 pycocotools==2.0.11',
    f'{REINSTALL} opencv-python-headless==4.12.0.88'
]
TORCH = f'{INSTALL} --force-reinstall --no-cache-dir %storch==2.11.0%s ' \
    'torchvision==0.26.0%s numpy==2.2.6'
PYPI_TORCH = TORCH % ('', '', '')


@pytest.fixture
def doctor(monkeypatch):
    spec = importlib.util.spec_from_file_location('doctor', TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'doctor', module)
    spec.loader.exec_module(module)
    return module


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


def run_main(doctor, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, 'argv', ['doctor.py', *arguments])
    return doctor.main()


def set_versions(doctor, monkeypatch, **versions: str) -> None:
    """Let the doctor see these distributions and no others."""

    def version(name: str) -> str:
        try:
            return versions[name.replace('-', '_')]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(doctor, 'version', version)


def run_one(doctor, capfd, name: str) -> dict:
    """Outcome of a check in this process, where the tests break things."""
    capfd.readouterr()
    doctor._report_checks([name])
    line, = (
        line for line in capfd.readouterr().out.splitlines()
        if line.startswith(doctor.MARK))
    return json.loads(line[len(doctor.MARK):])


def raising(error: Exception):

    def run(*args, **kwargs):
        raise error

    return run


def torch_of(build: str) -> str:
    return TORCH % (
        f'--extra-index-url https://download.pytorch.org/whl/{build} ',
        f'+{build}', f'+{build}')


def test_tested_versions_are_those_that_make_installs(doctor):
    for name, line in (('pinned', doctor.MAINTAINED), ('original',
                                                       doctor.ORIGINAL)):
        text = (ROOT / 'requirements' / f'{name}.txt').read_text()
        pins = dict(re.findall(r'^([\w-]+)==(\S+)', text, re.MULTILINE))
        for distribution, version in [
                *doctor.TORCH.items(), *doctor.ARRAYS.items(),
            ('opencv-python', doctor.OPENCV),
            ('opencv-python-headless', doctor.OPENCV), *line.values()
        ]:
            assert pins[distribution] == version


def test_this_environment_is_healthy():
    done = subprocess.run([sys.executable, TOOL],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout
    for name in ('torch pair', 'numpy', 'import mmdet', 'arrays', 'operators',
                 'training step', 'save and resume', 'two processes',
                 'bfloat16'):
        assert re.search(f'^{name} +ok ', done.stdout, re.MULTILINE), name
    assert re.search(r'all \d\d checks passed', done.stdout)


def test_help_shows_examples_and_bad_options_are_refused():
    done = subprocess.run([sys.executable, TOOL, '--help'],
                          capture_output=True,
                          text=True)
    assert 'python tools/doctor.py --fix' in done.stdout
    done = subprocess.run([sys.executable, TOOL, '--fix', '--unfix'],
                          capture_output=True,
                          text=True)
    assert done.returncode == 2
    assert 'not allowed with argument --fix' in done.stderr


def test_empty_environment_is_told_what_to_install(tmp_path):
    venv.create(tmp_path / 'empty', symlinks=True)
    python = tmp_path / 'empty' / 'bin' / 'python'
    done = subprocess.run([python, TOOL], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert re.search('OpenMMLab +FAIL  not installed', done.stdout)
    for requirement in ('torch==2.11.0', 'onedl-mmdetection==3.5.1'):
        assert re.search(f'{python} -m pip install .*{requirement}',
                         done.stdout)
    assert re.search('import torch +FAIL  ModuleNotFoundError', done.stdout)
    assert re.search('save and resume +note  not run', done.stdout)


def test_import_that_fails_or_crashes_does_not_hide_the_others(doctor, shadows):
    (shadows / 'cv2.py').write_text(
        'raise ImportError("libGL.so.1: cannot open shared object file")')
    (shadows / 'torchvision.py').write_text('import os; os.abort()')
    names = ['import torchvision', 'import cv2', 'import pycocotools.mask']
    crashed, failed, fine = doctor._run_checks(names)
    assert (crashed.name, crashed.state) == (names[0], 'FAIL')
    assert 'crashed' in crashed.detail
    assert failed.state == 'FAIL' and 'libGL.so.1' in failed.detail
    assert 'opencv-python-headless' in failed.fixes[0]
    assert (fine.name, fine.state, fine.fixes) == (names[2], 'ok', [])


@pytest.mark.parametrize(
    'error, module, fixes',
    [
        ("No module named 'pkg_resources'", 'mmengine',
         [f'{INSTALL} "setuptools<81"']),
        ('numpy.dtype size changed, may indicate binary incompatibility',
         'pycocotools', ARRAYS),
        ('operator torchvision::nms does not exist', 'mmcv', [PYPI_TORCH]),
        ('MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4',
         'mmdet', [f'{REINSTALL} onedl-mmcv==2.3.6']),
        ("cannot import name 'Config' from 'mmengine' (/x/__init__.py)",
         'mmdet', [f'{REINSTALL} onedl-mmengine==0.10.12']),
        ('  File "/v/lib/python3.11/site-packages/mmcv/a.py", line 1, in '
         '<module>\nAttributeError: float', 'mmdet',
         [f'{REINSTALL} onedl-mmcv==2.3.6']),
        ("No module named 'mmseg'", 'mmseg',
         [f'{REINSTALL} onedl-mmsegmentation==1.4.2']),
        ("No module named 'ftfy'", 'mmpretrain', [f'{INSTALL} ftfy']),
        ("No module named 'yaml'", 'mmengine', [f'{INSTALL} pyyaml']),
        ("No module named 'sympy'", 'torch', [PYPI_TORCH]),
        # Whoever offers a distribution of such a name is not known.
        ("No module named 'helpers'", 'mmdet', []),
        ('SyntaxError: invalid syntax', 'mmhier', []),
    ])
def test_known_import_errors_have_a_remedy(doctor, monkeypatch, error, module,
                                           fixes):
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12')
    assert doctor._import_fixes(module, error) == fixes


@pytest.mark.parametrize('torch, torchvision, fix', [
    ('2.11.0', '0.25.0', '"torchvision==0.26.*"'),
    ('2.8.0+cu128', '0.26.0', '--extra-index-url https://download.pytorch.org'
     '/whl/cu128 "torchvision==0.23.*"'),
    ('2.5.1', '0.20.1', 'torch==2.11.0 torchvision==0.26.0'),
    ('2.11.0', None, 'torch==2.11.0 torchvision==0.26.0'),
])
def test_torch_and_torchvision_that_do_not_match(doctor, monkeypatch, torch,
                                                 torchvision, fix):
    versions = dict(torch=torch, torchvision=torchvision)
    set_versions(doctor, monkeypatch, **{
        k: v
        for k, v in versions.items() if v
    })
    finding = doctor._check_torch_pair()
    assert finding.state == 'FAIL'
    assert finding.fixes[0].endswith(fix)


def test_two_lines_over_each_other_are_one_fault(doctor, monkeypatch):
    set_versions(
        doctor,
        monkeypatch,
        onedl_mmengine='0.10.12',
        mmengine='0.10.7',
        mmcv='2.1.0')
    finding = doctor._check_line()
    assert finding.state == 'FAIL'
    assert finding.fixes[0].endswith('pip uninstall -y mmengine mmcv')
    assert 'onedl-mmengine==0.10.12' in finding.fixes[1]


def test_setuptools_82_matters_to_the_original_line_only(doctor, monkeypatch):
    set_versions(doctor, monkeypatch, mmengine='0.10.7', setuptools='82.0.0')
    assert doctor._check_setuptools().state == 'FAIL'
    set_versions(
        doctor, monkeypatch, onedl_mmengine='0.10.12', setuptools='82.0.0')
    assert doctor._check_setuptools().state == 'ok'


@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
def test_missing_operators_are_mended_and_the_mending_undone(
        doctor, bare_mmcv, monkeypatch, capfd):
    monkeypatch.setattr(doctor, 'examine',
                        lambda: doctor._run_checks(['operator source']))
    assert run_main(doctor, monkeypatch) == 0
    assert f'{sys.executable} -m mmhier.ops install' in capfd.readouterr().out
    assert not (bare_mmcv / '_ext.py').exists()

    assert run_main(doctor, monkeypatch, '--fix') == 0
    assert (bare_mmcv / '_ext.py').is_file()
    assert 'all 1 checks passed' in capfd.readouterr().out

    assert run_main(doctor, monkeypatch, '--unfix') == 0
    assert not (bare_mmcv / '_ext.py').exists()


@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
def test_operators_of_another_torch_are_named_and_left_alone(
        doctor, bare_mmcv, monkeypatch, capfd):
    suffix = sysconfig.get_config_var('EXT_SUFFIX')
    extension = bare_mmcv / f'_ext{suffix}'
    extension.write_bytes(b'not a library')
    (finding, ) = doctor._run_checks(['operator source'])
    assert finding.state == 'FAIL'
    assert extension.name in finding.detail
    assert '--force-reinstall' in finding.fixes[0]
    assert run_main(doctor, monkeypatch, '--unfix') != 0
    assert extension.read_bytes() == b'not a library'


def test_fix_runs_what_was_printed_and_checks_again(doctor, shadows,
                                                    monkeypatch, capfd):
    broken = shadows / 'cv2.py'
    broken.write_text('raise ImportError("libGL.so.1: not found")')
    # Stands in for pip: notes its arguments and mends cv2.
    (shadows / 'pip.py').write_text(
        'import pathlib, sys\n'
        f'pathlib.Path({str(shadows / "called")!r}).write_text('
        '" ".join(sys.argv[1:]))\n'
        f'pathlib.Path({str(broken)!r}).write_text("")')
    monkeypatch.setattr(doctor, 'examine',
                        lambda: doctor._run_checks(['import cv2']))
    assert run_main(doctor, monkeypatch, '--fix') == 0
    called = (shadows / 'called').read_text()
    assert called == ('install --force-reinstall --no-deps --no-cache-dir '
                      'opencv-python-headless==4.12.0.88')
    out = capfd.readouterr().out
    assert f'$ {sys.executable} -m pip {called}' in out
    assert out.index('1 of 1 checks failed') < out.index('all 1 checks passed')


def test_fix_that_fails_is_said_and_stops(doctor, shadows, monkeypatch, capfd):
    (shadows / 'cv2.py').write_text('raise ImportError("libGL.so.1")')
    (shadows / 'pip.py').write_text('raise SystemExit(3)')
    monkeypatch.setattr(doctor, 'examine',
                        lambda: doctor._run_checks(['import cv2']))
    assert run_main(doctor, monkeypatch, '--fix') == 1
    assert 'error: this command failed' in capfd.readouterr().err


def wrong_operators(patch):
    patch.setattr(mmcv.ops, 'nms', lambda boxes, *_, **__:
                  (boxes, torch.arange(3)))


def lacking_operators(patch):
    patch.setattr(
        mmcv.ops, 'nms',
        raising(NotImplementedError("Could not run 'torchvision::nms'")))


def no_gradients(patch):
    patch.setattr(torch.Tensor, 'backward', lambda *_: None)


def no_memory(patch):
    patch.setattr(
        torch.Tensor, 'backward',
        raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")))


def broken_backward(patch):
    patch.setattr(torch.Tensor, 'backward',
                  raising(RuntimeError('internal assert failed')))


def lost_iterations(patch):
    patch.setattr('mmhier.checkpoints.read_checkpoint',
                  lambda path: dict(meta=dict(iter=1)))


def full_disk(patch):
    patch.setattr('mmengine.runner.Runner.train',
                  raising(OSError(28, 'No space left on device')))


def wrong_mean(patch):
    patch.setattr(
        torch.multiprocessing, 'spawn',
        raising(
            ProcessRaisedException(
                '\n-- Process 0 terminated with the following error:\n'
                'Traceback\n'
                'AssertionError: gradient 1.0, not the mean of 1 and 3', 0, 1)))


def unreachable(patch):
    patch.setattr(
        torch.multiprocessing, 'spawn',
        raising(
            ProcessRaisedException(
                '\n-- Process 0 terminated with the following error:\n'
                'Traceback\n'
                'RuntimeError: connection refused', 0, 1)))


def noise(patch):
    patch.setattr(HATNet, 'forward', lambda *_: (torch.randn(1, 8, 2, 2), ))


def wrong_code(patch):
    patch.setattr(torch, 'compile', lambda function: torch.cos)


def no_compiler(patch):
    patch.setattr(
        torch, 'compile',
        raising(
            RuntimeError(
                'InvalidCxxCompiler: No working C++ compiler found in cpp.cxx'))
    )


def no_backend(patch):
    patch.setattr(torch, 'compile',
                  raising(RuntimeError('the compiler of this backend gave up')))


@pytest.mark.parametrize('name, fault, detail, fixes', [
    ('operators', wrong_operators, 'nms keeps [0, 1, 2], not [0, 2]',
     [PYPI_TORCH]),
    ('operators', lacking_operators, 'Could not run', [PYPI_TORCH]),
    ('training step', no_gradients, 'parameters without gradient', [PYPI_TORCH
                                                                    ]),
    ('training step', broken_backward, 'internal assert', [PYPI_TORCH]),
    ('training step', no_memory, 'allocate memory', []),
    ('save and resume', lost_iterations, 'iterations are (1, 4)',
     [f'{REINSTALL} onedl-mmengine==0.10.12']),
    ('save and resume', full_disk, 'No space left on device', []),
    ('two processes', wrong_mean, 'gradient 1.0, not the mean of 1 and 3',
     [PYPI_TORCH]),
    ('two processes', unreachable,
     'connection refused. If they cannot reach each other, try again with '
     'GLOO_SOCKET_IFNAME=lo', []),
    ('bfloat16', noise, 'bfloat16 differs by', [PYPI_TORCH]),
    ('compile', wrong_code, 'compiled code is wrong by', [PYPI_TORCH]),
    ('compile', no_compiler, 'No working C++ compiler',
     ['apt-get update', 'apt-get install -y g++']),
    ('compile', no_backend, 'gave up', []),
])
@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
def test_each_fault_has_what_mends_it_or_nothing(doctor, tmp_path, monkeypatch,
                                                 capfd, name, fault, detail,
                                                 fixes):
    monkeypatch.chdir(tmp_path)
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12')
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    monkeypatch.setattr(doctor.shutil, 'which', lambda name: f'/bin/{name}')
    with monkeypatch.context() as patch:
        fault(patch)
        found = run_one(doctor, capfd, name)
    assert detail in found['detail']
    assert found['fixes'] == fixes
    optional = fault in (no_compiler, no_backend)
    assert found['state'] == ('note' if optional else 'FAIL')

    called = []
    monkeypatch.setattr(doctor, 'examine', lambda: [doctor.Finding(**found)])
    monkeypatch.setattr(doctor.subprocess, 'call',
                        lambda words: called.append(' '.join(words)) or 0)
    assert run_main(doctor, monkeypatch, '--fix') == int(not optional)
    assert called == fixes
    unknown = 'no command is known to mend this: report it to the authors'
    assert (unknown in capfd.readouterr().out) == (not fixes and not optional)


def test_checks_that_crash_or_are_killed(doctor, shadows):
    (shadows / 'mmcv').mkdir()
    init = shadows / 'mmcv' / '__init__.py'
    init.write_text('import os; os.abort()')
    found, = doctor._run_checks(['operators'])
    assert found.state == 'FAIL' and found.detail == 'crashed, code -6'
    assert found.fixes == doctor._package_fixes('torch')
    found, = doctor._run_checks(['import mmcv'])
    assert found.fixes == doctor._package_fixes('mmcv')
    init.write_text('import os; os.kill(os.getpid(), 9)')
    found, = doctor._run_checks(['operators'])
    assert 'lack of memory' in found.detail and not found.fixes


@pytest.mark.parametrize('smi, built, state, detail, fixes', [
    ('CUDA Version: 12.4', '13.0', 'FAIL', 'does not take', [torch_of('cu126')
                                                             ]),
    ('CUDA Version: 12.9', '13.0', 'FAIL', 'does not take', [torch_of('cu128')
                                                             ]),
    ('CUDA Version: 11.4', '13.0', 'FAIL', 'does not take', [torch_of('cpu')]),
    ('CUDA Version: 13.1', None, 'FAIL', 'built without CUDA',
     [torch_of('cu130')]),
    ('CUDA Version: 11.4', None, 'note', 'too old', []),
    ('CUDA Version: 13.1', '13.0', 'FAIL', 'finds no GPU (no NVIDIA)', []),
    ("couldn't communicate", '13.0', 'FAIL', 'does not reach the driver', []),
    (None, '13.0', 'ok', 'runs on the CPU', []),
])
def test_torch_that_does_not_suit_the_driver(doctor, tmp_path, monkeypatch,
                                             capfd, smi, built, state, detail,
                                             fixes):
    if smi is not None:
        program = tmp_path / 'nvidia-smi'
        program.write_text(f'#!/bin/sh\necho "{smi}"')
        program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/bin' if smi else str(tmp_path))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'init', raising(RuntimeError('no NVIDIA')))
    monkeypatch.setattr(torch.version, 'cuda', built)
    found = run_one(doctor, capfd, 'CUDA')
    assert (found['state'], found.get('fixes', [])) == (state, fixes)
    assert detail in found['detail']


def test_gpu_that_this_torch_has_no_code_for(doctor, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda i: 'V100')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda i: (7, 0))
    monkeypatch.setattr(doctor, '_driver_cuda', lambda: (13, 0))
    monkeypatch.setattr(
        torch.Tensor, 'to',
        raising(
            RuntimeError(
                'CUDA error: no kernel image is available for execution')))
    found = run_one(doctor, capfd, 'CUDA')
    assert found['detail'] == 'this torch has no code for V100'
    assert found['fixes'] == [torch_of('cu126')]


@pytest.mark.parametrize('versions, state, detail', [
    (dict(numpy='2.2.6', opencv_python='4.12.0.88',
          pycocotools='2.0.11'), 'ok', '2.2.6'),
    (dict(numpy='2.2.6', opencv_python='4.9.0.80', pycocotools='2.0.11'),
     'FAIL', '2.2.6, but opencv-python 4.9.0.80 is built for numpy 1'),
    (dict(numpy='2.0.0', opencv_python='4.10.0.84', pycocotools='2.0.7'),
     'FAIL', '2.0.0, but pycocotools 2.0.7 is built for numpy 1'),
    (dict(numpy='1.26.4', opencv_python='4.9.0.80',
          pycocotools='2.0.7'), 'ok', '1.26.4'),
    (dict(opencv_python='4.12.0.88'), 'FAIL', 'not installed'),
])
def test_numpy_is_that_of_what_is_built_on_it(doctor, monkeypatch, versions,
                                              state, detail):
    set_versions(doctor, monkeypatch, **versions)
    monkeypatch.setattr(doctor, 'requires', lambda distribution: [])
    found = doctor._check_numpy()
    assert (found.name, found.state, found.detail) == ('numpy', state, detail)
    assert found.fixes == ([] if state == 'ok' else
                           [f'{ARRAYS[0]} opencv-python==4.12.0.88', ARRAYS[1]])


def test_numpy_that_a_package_says_it_does_not_want(doctor, monkeypatch):
    set_versions(doctor, monkeypatch, numpy='2.3.0')
    needs = {
        'opencv-python': [
            'numpy<2.0; python_version < "3.9"',
            'numpy<2.3.0,>=2; python_version >= "3.9"'
        ],
        'torch': ['filelock', 'numpy>9; extra == "all"']
    }
    monkeypatch.setattr(doctor, 'requires', needs.get)
    found = doctor._check_numpy()
    assert found.state == 'note'
    assert found.detail == '2.3.0, but opencv-python needs numpy<2.3.0,>=2'
    assert found.fixes == [f'{INSTALL} numpy==2.2.6']


def test_arrays_that_are_misread(doctor, monkeypatch, capfd):
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12')
    monkeypatch.setattr(torch, 'from_numpy',
                        raising(RuntimeError('Numpy is not available')))
    found = run_one(doctor, capfd, 'arrays')
    assert found['detail'] == 'RuntimeError: Numpy is not available'
    assert found['fixes'] == ARRAYS


def test_checkpoint_is_read_without_executing_it(doctor, tmp_path, monkeypatch,
                                                 capfd):
    monkeypatch.setattr(doctor, 'examine', lambda: [])
    trap, path = tmp_path / 'executed', tmp_path / 'a.pth'
    torch.save(dict(state_dict={}, meta=Executes(trap)), path)
    assert run_main(doctor, monkeypatch, '--fix', '--checkpoint',
                    str(path)) == 1
    out = capfd.readouterr().out
    assert 'could execute code and was not loaded' in out
    assert 'no command is known' not in out and not trap.exists()

    torch.save(dict(state_dict=dict(w=torch.ones(2, 5000)), meta={}), path)
    assert run_main(doctor, monkeypatch, '--checkpoint', str(path)) == 0
    assert ('1 tensors of weights, 0.01 M values; its keys are state_dict, '
            'meta') in capfd.readouterr().out
