"""Commands and code of Markdown pages, and a shell that runs them."""
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import setuptools
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser
import mmhier.cli.__main__ as cli
import mmhier.ops.__main__ as operators
from mmhier import apis
from mmhier.checkpoints import official_name
from ..commands import load_tool
from .conftest import DETECTOR

ROOT = Path(__file__).parents[2]
# The slim detector under the name of the pages' detector.
SLIM_NAME = 'mask-rcnn_hatnet-tiny_fpn_1x_coco'
SLIM = f'''
_base_ = {DETECTOR!r}
default_hooks = dict(checkpoint=dict(filename_tmpl='epoch_12.pth'))
'''
SRUN = '''#!/bin/sh
: > "$RECORD.srun"
while [ "${1#--}" != "$1" ]; do
    printf '%s\\n' "$1" >> "$RECORD.srun"
    shift
done
exec "$@"
'''
PYTHON = '''#!/bin/sh
printf '%s\\n' "$@" > "$RECORD"
'''


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a language, those in lists among them."""
    found = re.findall(rf'^( *)```{language}\n(.*?)^\1```$',
                       (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [dedent(code) for _, code in found]


def commands(page: str) -> list[str]:
    """Commands of a page, each in one line and without its comment."""
    text = ''.join(blocks(page, 'shell')).replace('\\\n', ' ')
    found = []
    for line in text.splitlines():
        line = shlex.join(shlex.split(line, comments=True))
        found += line.replace("'&&'", '\n').splitlines()
    return [re.sub(' +', ' ', command).strip() for command in found]


def write_slim_checkout(folder: Path, coco_root: Path) -> None:
    """A checkout whose detector is slim and whose COCO is small."""
    (folder / 'configs' / 'hatnet').mkdir(parents=True)
    for name in ('_base_', 'accvit'):
        (folder / 'configs' / name).symlink_to(ROOT / 'configs' / name)
    (folder / f'configs/hatnet/{SLIM_NAME}.py').write_text(SLIM)
    (folder / 'data').mkdir()
    (folder / 'data/coco').symlink_to(coco_root)


class Shell:
    """Runs a page's commands in a stand-in for a checkout.

    Python tools run in this process, scripts with stand-ins for srun and for
    the Python that they start; of `make`, `pip` and `docker` it is checked
    that what they are asked for exists.

    Attributes:
        changes (dict): By the name of a tool, what to do to its module
            before it is run.
        started (list[tuple[dict, dict]]): Of each script, how many processes
            are started where, and the arguments of the tool.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.changes: dict[str, Callable[[ModuleType], None]] = {}
        self.started: list[tuple[dict, dict]] = []
        self.made: list[str] = []
        self._image: str | None = None
        monkeypatch.chdir(folder)
        for name, text in (('srun', SRUN), ('python', PYTHON)):
            path = folder / '.venv' / 'bin' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)

    def run(self, command: str) -> None:
        """Run a command; it must succeed."""
        words = [os.path.expandvars(word) for word in shlex.split(command)]
        with self.monkeypatch.context() as patch:
            while match := re.fullmatch(r'([A-Z_]+)=(.*)', words[0]):
                patch.setenv(*match.groups())
                del words[0]
            program, *arguments = words
            name = Path(program).name.replace('-', '_')
            getattr(self, f'_run_{name}')(arguments)

    def run_official(self, command: str) -> None:
        """Run `infer` or `test` of an official model up to its function."""
        received: dict = {}

        def record(**arguments) -> dict:
            received.update(arguments)
            return dict(images=[], skipped=[])

        with self.monkeypatch.context() as patch:
            for name in ('infer', 'test'):
                patch.setattr(apis, name, record)
            self.run(command)
        assert received['checkpoint'] == 'official'
        assert official_name('official', received['config'])

    def _run_python(self, arguments: list[str]) -> None:
        if arguments[0] == '-m':
            _, module, *arguments = arguments
            getattr(self, '_run_module_' + module.replace('.', '_'))(arguments)
        else:
            self._run_main(self._load_tool(arguments[0]), arguments)

    def _load_tool(self, path: str) -> ModuleType:
        tool = load_tool(path)
        change = self.changes.get(tool.__name__.split('.')[-1])
        if change is not None:
            change(tool)
        return tool

    def _run_main(self, module: ModuleType, argv: list[str]) -> None:
        self.monkeypatch.setattr(sys, 'argv', argv)
        try:
            status = module.main()
        except SystemExit as end:
            status = end.code
        assert not status, f'{argv} ends with {status}'

    def _run_mmhier(self, arguments: list[str]) -> None:
        self._run_main(cli, ['mmhier', *arguments])

    def _run_module_mmhier_ops(self, arguments: list[str]) -> None:
        self._run_main(operators, ['mmhier.ops', *arguments])

    def _run_module_pytest(self, arguments: list[str]) -> None:
        assert (ROOT / arguments[0]).is_file()

    def _run_bash(self, arguments: list[str]) -> None:
        """Run a script, and the tool it starts with its function replaced."""
        record = self.folder / 'record'
        folders = [str(self.folder / '.venv' / 'bin'), os.environ['PATH']]
        subprocess.run(
            ['bash', str(ROOT / arguments[0]), *arguments[1:]],
            check=True,
            env=dict(
                os.environ, RECORD=str(record), PATH=os.pathsep.join(folders)))
        words = record.read_text().splitlines()
        if words[0] == '-m':
            assert words[1] == 'torch.distributed.run'
            job = vars(get_args_parser().parse_args(words[2:]))
            script = [job['training_script'], *job['training_script_args']]
        else:
            options = Path(f'{record}.srun').read_text().splitlines()
            job = dict(o[2:].split('=', 1) for o in options)
            assert words[0] == '-u'
            script = words[1:]
        received: dict = {}
        with self.monkeypatch.context() as patch:
            patch.setattr(apis,
                          Path(script[0]).stem,
                          lambda **kwargs: received.update(kwargs))
            self._run_main(self._load_tool(script[0]), script)
        assert Path(received['config']).is_file()
        self.started.append((job, received))

    def _run_make(self, arguments: list[str]) -> None:
        # Not the variables of the make that runs these tests.
        passed_on = ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'VENV', 'PINNED',
                     'PYTHON')
        self.made.append(
            subprocess.run(
                [
                    'make', '-C',
                    str(ROOT), '--no-print-directory', '--dry-run',
                    '--always-make', *arguments
                ],
                check=True,
                capture_output=True,
                text=True,
                env={
                    key: value
                    for key, value in os.environ.items() if key not in passed_on
                }).stdout)

    def _run_source(self, arguments: list[str]) -> None:
        assert arguments == ['.venv/bin/activate']
        assert 'VENV ?= .venv\n' in (ROOT / 'Makefile').read_text()

    def _run_export(self, arguments: list[str]) -> None:
        name, value = arguments[0].split('=')
        self.monkeypatch.setenv(name, value)

    def _run_pip(self, arguments: list[str]) -> None:
        assert arguments[0] == 'install'
        project: dict = {}
        with self.monkeypatch.context() as patch:
            patch.setattr(setuptools, 'setup', lambda **kw: project.update(kw))
            runpy.run_path(str(ROOT / 'setup.py'))
        for word in set(arguments[1:]) - {'-e'}:
            name = re.sub(r'^\.', 'mmhier', word)
            wanted = Requirement(name)
            assert wanted.extras <= set(project['extras_require'])
            assert wanted.name in ('mmhier', 'pre-commit')

    def _run_docker(self, arguments: list[str]) -> None:
        action, *arguments = arguments
        if action == 'build':
            _, self._image, context = arguments
            assert context == '.'
            return
        assert action == 'run'
        image = arguments.index(self._image)
        for option, value in zip(arguments[:image], arguments[1:image]):
            assert option != '-v' or value.split(':')[1].startswith('/mmhier/')
        if arguments[image + 1:]:
            self.run(shlex.join(arguments[image + 1:]))

    def _run_pre_commit(self, arguments: list[str]) -> None:
        assert arguments == ['install']
        assert (ROOT / '.pre-commit-config.yaml').is_file()
