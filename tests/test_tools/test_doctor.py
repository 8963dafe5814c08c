"""The doctor in healthy, broken and empty environments."""
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import mmcv
import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'doctor.py'
MMCV = Path(mmcv.__file__).parent


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


def test_tested_versions_are_those_that_make_installs(doctor):
    for name, line in (('pinned', doctor.MAINTAINED),
                       ('original', doctor.ORIGINAL)):
        text = (ROOT / 'requirements' / f'{name}.txt').read_text()
        pins = dict(re.findall(r'^([\w-]+)==(\S+)', text, re.MULTILINE))
        for distribution, version in [*doctor.TORCH.items(), *line.values()]:
            assert pins[distribution] == version


def test_this_environment_is_healthy():
    done = subprocess.run([sys.executable, TOOL],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for name in ('torch pair', 'import mmdet', 'operators', 'training step',
                 'save and resume', 'two processes', 'bfloat16'):
        assert re.search(f'^{name} +ok ', done.stdout, re.MULTILINE), name
    assert re.search(r'all \d\d checks passed', done.stdout)


def test_help_shows_examples_and_bad_options_are_refused():
    done = subprocess.run([sys.executable, TOOL, '--help'],
                          capture_output=True, text=True)
    assert 'python tools/doctor.py --fix' in done.stdout
    done = subprocess.run([sys.executable, TOOL, '--fix', '--unfix'],
                          capture_output=True, text=True)
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


def test_import_that_fails_or_crashes_does_not_hide_the_others(
        doctor, shadows):
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


@pytest.mark.parametrize('error, module, fix', [
    ("No module named 'pkg_resources'", 'mmengine', '"setuptools<81"'),
    ('numpy.dtype size changed, may indicate binary incompatibility',
     'pycocotools.mask', 'pycocotools'),
    ('operator torchvision::nms does not exist', 'mmcv',
     'torchvision==0.26.0'),
    ('MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4',
     'mmdet', 'onedl-mmcv==2.3.6'),
    ("No module named 'mmseg'", 'mmseg', 'onedl-mmsegmentation==1.4.2'),
    ("No module named 'ftfy'", 'mmpretrain', 'ftfy'),
])
def test_known_import_errors_have_a_remedy(doctor, monkeypatch, error, module,
                                           fix):
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12')
    (command, ) = doctor._import_fixes(module, error)
    assert command.startswith(f'{sys.executable} -m pip install')
    assert command.endswith(fix)


@pytest.mark.parametrize('torch, torchvision, fix', [
    ('2.11.0', '0.25.0', '"torchvision==0.26.*"'),
    ('2.8.0+cu128', '0.26.0', '"torchvision==0.23.*"'),
    ('2.5.1', '0.20.1', 'torch==2.11.0 torchvision==0.26.0'),
    ('2.11.0', None, 'torch==2.11.0 torchvision==0.26.0'),
])
def test_torch_and_torchvision_that_do_not_match(doctor, monkeypatch, torch,
                                                 torchvision, fix):
    versions = dict(torch=torch, torchvision=torchvision)
    set_versions(doctor, monkeypatch,
                 **{k: v for k, v in versions.items() if v})
    finding = doctor._check_torch_pair()
    assert finding.state == 'FAIL'
    assert finding.fixes[0].endswith(fix)


def test_two_lines_over_each_other_are_one_fault(doctor, monkeypatch):
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12',
                 mmengine='0.10.7', mmcv='2.1.0')
    finding = doctor._check_line()
    assert finding.state == 'FAIL'
    assert finding.fixes[0].endswith('pip uninstall -y mmengine mmcv')
    assert 'onedl-mmengine==0.10.12' in finding.fixes[1]


def test_setuptools_82_matters_to_the_original_line_only(doctor, monkeypatch):
    set_versions(doctor, monkeypatch, mmengine='0.10.7', setuptools='82.0.0')
    assert doctor._check_setuptools().state == 'FAIL'
    set_versions(doctor, monkeypatch, onedl_mmengine='0.10.12',
                 setuptools='82.0.0')
    assert doctor._check_setuptools().state == 'ok'


@pytest.mark.skipif(any(MMCV.glob('_ext*.so')), reason='compiled operators')
def test_missing_operators_are_mended_and_the_mending_undone(
        doctor, bare_mmcv, monkeypatch, capfd):
    monkeypatch.setattr(
        doctor, 'examine', lambda: doctor._run_checks(['operator source']))
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
    monkeypatch.setattr(
        doctor, 'examine', lambda: doctor._run_checks(['import cv2']))
    assert run_main(doctor, monkeypatch, '--fix') == 0
    called = (shadows / 'called').read_text()
    assert called == ('install --force-reinstall --no-deps '
                      'opencv-python-headless')
    out = capfd.readouterr().out
    assert f'$ {sys.executable} -m pip {called}' in out
    assert out.index('1 of 1 checks failed') < out.index('all 1 checks passed')


def test_fix_that_fails_is_said_and_stops(doctor, shadows, monkeypatch,
                                          capfd):
    (shadows / 'cv2.py').write_text('raise ImportError("libGL.so.1")')
    (shadows / 'pip.py').write_text('raise SystemExit(3)')
    monkeypatch.setattr(
        doctor, 'examine', lambda: doctor._run_checks(['import cv2']))
    assert run_main(doctor, monkeypatch, '--fix') == 1
    assert 'error: this command failed' in capfd.readouterr().err
