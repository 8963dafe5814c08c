"""docs/install.md: its commands; the Dockerfile, the CI workflow and the
Makefile behind them."""
import re
import runpy

import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from mmhier import apis
from .pages import ROOT, Shell, commands

PAGE = 'docs/install.md'


def test_commands(tmp_path, fake_mmcv, monkeypatch, capfd):
    shell = Shell(tmp_path, monkeypatch)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    trained, called = [], []

    def make_faulty(doctor):
        faults = [[], [doctor.Finding('cv2', 'FAIL', 'no libGL', 'mend it')]]
        if '--fix' not in command:
            del faults[1]
        monkeypatch.setattr(doctor, 'examine', faults.pop)
        monkeypatch.setattr(doctor.subprocess, 'call',
                            lambda words: called.append(words) or 0)

    shell.changes['doctor'] = make_faulty
    shell.changes['train'] = lambda tool: monkeypatch.setattr(
        apis, 'train', lambda **kwargs: trained.append(kwargs['config']))
    printed = {}
    for command in commands(PAGE):
        shell.run(command)
        printed[command] = capfd.readouterr().out
        if command.endswith('mmhier.ops install'):
            assert (fake_mmcv / '_ext.py').is_file()

    assert 'torchvision' in printed['python -m mmhier.ops status']
    assert not (fake_mmcv / '_ext.py').exists()
    assert called == [['mend', 'it']]
    assert '$ mend it' in printed['python tools/doctor.py --fix']
    assert (ROOT / trained[0]).is_file()

    made = dict(
        zip((c for c in commands(PAGE) if c.startswith('make')), shell.made))
    for command, lines in made.items():
        pinned = 'original' if 'original' in command else 'pinned'
        assert f'install --quiet -r requirements/{pinned}.txt' in lines
        venv = (re.findall(r'VENV=(\S+)', command) or ['.venv'])[0]
        assert f'-m venv {venv}\n' in lines
        assert f'{venv}/bin/python -m mmhier.ops install' in lines
    assert 'python3.12 -m venv' in made[
        'make install PYTHON=python3.12 VENV=.venv-3.12']
    assert 'requirements/tests.txt' in made['make install-tests']
    assert '-m sphinx' in made['make docs']


def test_the_floors_are_what_make_test_floor_installs(monkeypatch):
    project: dict = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kw: project.update(kw))
    runpy.run_path(str(ROOT / 'setup.py'))
    stated = {}
    for text in (*project['install_requires'],
                 *project['extras_require']['openmmlab']):
        requirement = Requirement(text)
        stated[requirement.name], = (
            part.version for part in requirement.specifier
            if part.operator == '>=')
    installed = dict(
        re.findall(r'^([\w-]+)==(\S+)$',
                   (ROOT / 'requirements/floor.txt').read_text(), re.M))
    for name in stated.keys() - {'filelock', 'jinja2'}:
        assert Version(
            installed[name]).release[:len(Version(stated[name]).release
                                          )] == Version(stated[name]).release


def test_dockerfile():
    lines = (ROOT / 'Dockerfile').read_text().splitlines()
    # Its head repeats what the page says.
    build, run = lines[0].removeprefix('# ').split(' && ')
    assert {build, run} <= set(commands(PAGE))
    assert 'WORKDIR /mmhier' in lines and 'RUN make install' in lines
    assert 'ENV PATH=/mmhier/.venv/bin:$PATH' in lines
    ignored = (ROOT / '.dockerignore').read_text().split()
    assert {'.venv*', 'data', 'work_dirs'} <= set(ignored)
    # make calls python3, which this image has.
    version = re.fullmatch(r'FROM python:3\.(\d+)-slim', lines[1])
    assert int(version[1]) >= 10


def test_workflow_runs_make(tmp_path, monkeypatch):
    """Each job caches by the lists that its `make` installs; a release waits
    for all others."""
    shell = Shell(tmp_path, monkeypatch)
    jobs = yaml.safe_load(
        (ROOT / '.github/workflows/ci.yml').read_text())['jobs']
    release = jobs.pop('release')
    assert set(release['needs']) == set(jobs) == {
        'lint', 'test', 'test-floor', 'test-original'
    }
    for job in jobs.values():
        _, setup, last = job['steps']
        shell.run(last['run'])
        installed = set(
            re.findall(r'-r (requirements/\w+\.txt)', shell.made[-1]))
        assert installed
        assert installed <= set(setup['with']['cache-dependency-path'].split())
    page = (ROOT / 'README.md').read_text()
    first, *_, last = jobs['test']['strategy']['matrix']['python']
    assert f'badge/python-{first}%20--%20{last}-' in page
