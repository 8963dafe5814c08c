"""Check the installation: versions, imports, operators and short runs.

Works where torch or OpenMMLab cannot be imported.

Examples:
    mmhier doctor          # a table, and the command for each fault
    mmhier doctor --fix    # run these commands, then check again
"""
import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from .arguments import command_parser

ROOT = Path(__file__).parents[2]
# Distributions of the maintained line of OpenMMLab and of the original one.
LINES = (('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection',
          'onedl-mmsegmentation', 'onedl-mmpretrain'),
         ('mmengine', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain'))
# Distributions to reinstall together, by module.
TORCH = ('torch', 'torchvision', 'numpy')
ARRAYS = ('numpy', 'pycocotools', 'opencv-python-headless')
STACK = dict(
    torch=TORCH,
    torchvision=TORCH,
    numpy=ARRAYS,
    cv2=ARRAYS,
    pycocotools=ARRAYS)
OPENMMLAB = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')
# mmsegmentation imports these without requiring them.
UNDECLARED = ('ftfy', 'regex')
RENAMED = dict(
    PIL='pillow',
    yaml='pyyaml',
    skimage='scikit-image',
    pkg_resources='setuptools<81')
IMPORTS = ('numpy', 'torch', 'torchvision', 'cv2', 'pycocotools.mask',
           *OPENMMLAB, 'mmhier.models')
# Functions of doctor_runs.
RUNS = ('operators', 'gpu', 'training step', 'save and resume', 'two processes')
PYTHON = shlex.quote(sys.executable)
CHILD_SECONDS = 600


@dataclass
class Finding:
    """Outcome of one check.

    Attributes:
        name (str): The check.
        state (str): 'ok', 'note' (works, could be better) or 'FAIL'.
        detail (str): Version, figure or error in one line.
        fix (str): Command that mends it, '' if none is known.
    """
    name: str
    state: str
    detail: str
    fix: str = ''


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('doctor', __doc__)
    parser.add_argument(
        '--fix',
        action='store_true',
        help='run the commands that mend the faults, then check again')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    findings = examine()
    fixes = list(dict.fromkeys(f.fix for f in findings if f.fix))
    if arguments.fix and fixes:
        for command in fixes:
            print(f'\n$ {command}', flush=True)
            if subprocess.call(shlex.split(command)) != 0:
                sys.exit('error: this command failed, and those after it were '
                         f'not run: {command}')
        findings = examine()
    sys.exit(int(any(f.state == 'FAIL' for f in findings)))


def examine() -> list[Finding]:
    """Run every check and print the findings.

    Returns:
        list[Finding]: In the order in which faults should be mended.
    """
    findings = [
        Finding(
            'python', 'ok', f'{platform.python_version()} '
            f'({sys.executable}), {platform.platform()}'),
        check_line(),
        check_torch()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings += pool.map(check_import, IMPORTS)
    broken = any(f.state == 'FAIL' for f in findings)
    findings += [
        Finding(name, 'note', 'skipped: mend the above first')
        if broken else check_run(name) for name in RUNS
    ]
    width = max(len(f.name) for f in findings)
    for f in findings:
        print(f'{f.name:{width}}  {f.state:4}  {f.detail}')
    for f in findings:
        if f.fix or f.state == 'FAIL':
            print(f'\n{f.name}: {f.detail}\n    '
                  f'{f.fix or "no command is known to mend this"}')
    failed = sum(f.state == 'FAIL' for f in findings)
    print(f'\n{failed} of {len(findings)} checks failed'
          if failed else f'\nall {len(findings)} checks passed')
    return findings


def installed(distribution: str) -> str:
    """Version of a distribution, '' if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ''


def requirements_of(distribution: str) -> list[str]:
    """Requirements that an installed distribution states."""
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []


def used_line() -> tuple[str, ...]:
    """The original line if only that is installed, else the maintained one."""
    return LINES[any(map(installed, LINES[1]))
                 and not any(map(installed, LINES[0]))]


def install_command(names: Sequence[str],
                    build: str = '',
                    with_needs: bool = False) -> str:
    """Command that installs the tested versions.

    They are pinned in a checkout; else the installed mmhier states them.

    Args:
        names (Sequence[str]): Distributions. torch brings its dependencies,
            since a build of another kind needs others.
        build (str): Build of torch such as 'cu128'. Defaults to '', the
            installed one.
        with_needs (bool): Install dependencies too. Defaults to False.
    """
    file = ROOT / 'requirements' / ('pinned.txt' if used_line() is LINES[0] else
                                    'original.txt')
    if file.is_file():
        texts = file.read_text().splitlines()
    else:
        texts = requirements_of('mmhier')
    matches = (re.match(r'([\w-]+)([^;\[]*)', text) for text in texts)
    tested = {m[1]: (m[1] + m[2]).strip() for m in matches if m}
    words = [tested.get(name, name) for name in names]
    options = ['--force-reinstall', '--no-cache-dir']
    if 'torch' in names:
        build = build or installed('torch').partition('+')[2]
    elif not with_needs:
        options.append('--no-deps')
    if build:
        options += [
            '--extra-index-url', f'https://download.pytorch.org/whl/{build}'
        ]
        words = [
            f'{word}+{build}'
            if word.startswith('torch') and '==' in word else word
            for word in words
        ]
    return shlex.join(
        [sys.executable, '-m', 'pip', 'install', *options, *words])


def check_line() -> Finding:
    """The two OpenMMLab lines overwrite each other's files."""
    found = [[name for name in names if installed(name)]
             for names in (LINES[0], (*LINES[1], 'mmcv'))]
    if all(found):
        both = ' '.join(found[0] + found[1])
        return Finding(
            'OpenMMLab', 'FAIL', f'two lines over each other: {both}; install '
            'one again afterwards', f'{PYTHON} -m pip uninstall -y {both}')
    missing = [
        name for name in used_line() if not installed(name)
        and not (name == 'mmcv-lite' and installed('mmcv'))
    ]
    if missing:
        return Finding('OpenMMLab', 'FAIL',
                       f'not installed: {", ".join(missing)}',
                       install_command(missing, with_needs=True))
    return Finding(
        'OpenMMLab', 'ok',
        ', '.join(f'{name} {installed(name)}' for name in found[0] + found[1]))


def check_torch() -> Finding:
    """torch 2.n belongs to torchvision 0.(n + 15)."""
    torch, vision = installed('torch'), installed('torchvision')
    problem = ''
    if not (torch and vision):
        problem = 'not installed'
    else:
        major, minor = map(int, torch.split('.')[:2])
        if (major, minor) < (2, 7):
            problem = 'mmhier needs torch 2.7 or newer'
        elif major == 2 and not vision.startswith(f'0.{minor + 15}.'):
            problem = 'they do not belong together'
    detail = f'torch {torch or "-"}, torchvision {vision or "-"}'
    if problem:
        return Finding('torch', 'FAIL', f'{detail}: {problem}',
                       install_command(TORCH))
    return Finding('torch', 'ok', detail)


def reinstall(module: str) -> str:
    """Command that installs a module of the stack again, '' for others."""
    module = module.split('.')[0]
    if module in OPENMMLAB:
        return install_command(used_line())
    return install_command(STACK[module]) if module in STACK else ''


def check_import(module: str) -> Finding:
    """Import a module in a process of its own."""
    state, detail = run_child(
        f'import {module} as m; print(getattr(m, "__version__", "imported"))')
    finding = Finding(f'import {module}', state, detail)
    if state != 'FAIL':
        return finding
    finding.fix = reinstall(module)
    missing = re.search(r"No module named '(\w+)", detail)
    if missing and missing[1] != module.split('.')[0]:
        name = RENAMED.get(missing[1], missing[1])
        needed = [
            re.split(r'[^\w-]', text)[0].lower().replace('_', '-')
            for line in used_line() for text in requirements_of(line)
        ]
        # Suggest known distributions only: anybody can publish another name.
        finding.fix = reinstall(missing[1])
        if name in (*needed, *UNDECLARED, RENAMED['pkg_resources']):
            finding.fix = finding.fix or (
                f'{PYTHON} -m pip install {shlex.quote(name)}')
    return finding


def check_run(name: str) -> Finding:
    """Call a function of doctor_runs in a process of its own."""
    state, detail = run_child(
        'import json; from mmhier.cli import doctor_runs as runs; '
        f'print(json.dumps(vars(runs.{name.replace(" ", "_")}())))')
    if state == 'ok':
        return Finding(**json.loads(detail))
    fix = ''
    if 'Numpy is not available' in detail:
        fix = reinstall('numpy')
    elif 'mmcv/_ext' in detail:
        fix = reinstall('mmcv')
    elif detail.startswith('AssertionError') or 'torchvision::' in detail:
        fix = reinstall('mmengine' if name == 'save and resume' else 'torch')
    return Finding(name, state, detail, fix)


def run_child(code: str) -> tuple[str, str]:
    """Run Python code in an empty folder.

    Returns:
        tuple[str, str]: 'ok' and the last line that it printed, or 'FAIL' and
        how it ended.
    """
    path = os.pathsep.join(
        filter(None, [os.environ.get('PYTHONPATH'),
                      str(ROOT)]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([sys.executable, '-c', code],
                                  capture_output=True,
                                  text=True,
                                  cwd=folder,
                                  env=dict(os.environ, PYTHONPATH=path),
                                  timeout=CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            return 'FAIL', f'no answer in {CHILD_SECONDS} s'
    if done.returncode == -9:
        return 'FAIL', 'killed, probably for lack of memory'
    if done.returncode == 0 and done.stdout:
        return 'ok', done.stdout.splitlines()[-1]
    # The first line of the error, which follows the indented frames.
    _, traced, error = done.stderr.rpartition('Traceback (most recent call')
    if traced and done.returncode == 1:
        return 'FAIL', next(line for line in error.splitlines()[1:]
                            if line[:1].strip())
    return 'FAIL', f'crashed, code {done.returncode}'
