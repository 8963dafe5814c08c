"""Check the installation: versions, imports, operators and short runs.

Works where torch or OpenMMLab cannot be imported.

Examples:
    mmhier doctor          # a table, and the command for each fault
    mmhier doctor --fix    # run these commands, then check again
"""
import argparse
import importlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from .arguments import command_parser

ROOT = Path(__file__).parents[2]
# Distribution of each module in the maintained line and in the original one.
OPENMMLAB = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
# Modules of the rest of the stack, with what is installed again together.
TORCH = ('torch', 'torchvision', 'numpy')
ARRAYS = ('numpy', 'pycocotools', 'opencv-python-headless')
STACK = dict(
    torch=TORCH,
    torchvision=TORCH,
    numpy=ARRAYS,
    pycocotools=ARRAYS,
    cv2=ARRAYS)
RENAMED = dict(PIL='pillow', yaml='pyyaml', skimage='scikit-image')
# mmsegmentation imports these without requiring them.
UNDECLARED = ('ftfy', 'regex')
MODULES = ('numpy', 'torch', 'torchvision', 'cv2', 'pycocotools.mask',
           *OPENMMLAB, 'mmhier.models')
# Runs of doctor_runs, and the module to install again if they go wrong.
RUNS = {
    'operators': 'torch',
    'gpu': 'torch',
    'training step': 'torch',
    'save and resume': 'mmengine',
    'two processes': 'torch',
}
PYTHON = shlex.quote(sys.executable)
CHILD_SECONDS = 600
# Starts a line of the child process that holds a finding.
MARK = '@doctor '


@dataclass
class Finding:
    """Outcome of one check.

    Attributes:
        name (str): What was checked.
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
        check_torch(), *run_checks([f'import {module}' for module in MODULES])
    ]
    if any(f.state == 'FAIL' for f in findings):
        findings += [
            Finding(name, 'note', 'skipped: mend the above first')
            for name in RUNS
        ]
    else:
        findings += run_checks(list(RUNS))
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


def is_original() -> bool:
    """Whether the original OpenMMLab line is installed, and it alone."""
    found = [
        any(installed(names[column]) for names in OPENMMLAB.values())
        for column in (0, 1)
    ]
    return found == [False, True]


def install_command(names: Sequence[str], build: str = '') -> str:
    """Command that installs the tested versions.

    They are pinned in a checkout; else the installed mmhier states them.

    Args:
        names (Sequence[str]): Distributions. torch brings its dependencies,
            since a build of another kind needs others.
        build (str): Build of torch such as 'cu128'. Defaults to '', the
            installed one.
    """
    file = ROOT / 'requirements' / ('original.txt'
                                    if is_original() else 'pinned.txt')
    texts = file.read_text().splitlines() if file.is_file() else (
        requirements_of('mmhier'))
    matches = (re.match(r'([\w-]+)([^;\[]*)', text) for text in texts)
    tested = {m[1]: (m[1] + m[2]).strip() for m in matches if m}
    words = [tested.get(name, name) for name in names]
    options = ['--force-reinstall', '--no-cache-dir']
    if 'torch' in names:
        build = build or installed('torch').partition('+')[2]
    else:
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
    columns = [[names[column] for names in OPENMMLAB.values()]
               for column in (0, 1)]
    columns[1].append('mmcv')
    found = [[name for name in names if installed(name)] for names in columns]
    if all(found):
        both = ' '.join(found[0] + found[1])
        return Finding(
            'OpenMMLab', 'FAIL', f'two lines over each other: {both}; install '
            'one again afterwards', f'{PYTHON} -m pip uninstall -y {both}')
    wanted = columns[is_original()]
    missing = [
        name for name in wanted if name != 'mmcv' and not installed(name)
        and not (name == 'mmcv-lite' and installed('mmcv'))
    ]
    if missing:
        # With what they need.
        command = install_command(missing).replace(' --no-deps', '')
        return Finding('OpenMMLab', 'FAIL',
                       f'not installed: {", ".join(missing)}', command)
    return Finding(
        'OpenMMLab', 'ok', ', '.join(f'{name} {installed(name)}'
                                     for name in wanted if installed(name)))


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
    if module in OPENMMLAB:
        return install_command([OPENMMLAB[module][is_original()]])
    return install_command(STACK[module]) if module in STACK else ''


def find_fix(module: str, error: str) -> str:
    """Command that mends an error, '' if none is known.

    Args:
        module (str): Module that was imported or is to blame by default.
        error (str): The traceback.
    """
    if re.search('libGL|libgthread', error):
        return install_command(ARRAYS[-1:])
    if re.search('numpy.dtype size changed|numpy.core|Numpy is not', error):
        return reinstall('numpy')
    if "No module named 'pkg_resources'" in error:
        return f'{PYTHON} -m pip install "setuptools<81"'
    if 'torchvision::' in error:
        return reinstall('torch')
    if re.search(r'mmcv/_ext\.\S+\.(so|pyd)', error):
        return reinstall('mmcv')
    missing = re.search(r"No module named '(\w+)", error)
    if missing:
        name = RENAMED.get(missing[1], missing[1]).replace('_', '-')
        # Anybody may have published a distribution of another name.
        needed = ' '.join(text for names in OPENMMLAB.values()
                          for text in requirements_of(names[is_original()]))
        if module in TORCH:
            return reinstall(module)
        if name in UNDECLARED or re.search(rf'\b{name}\b', needed, re.I):
            return reinstall(name) or f'{PYTHON} -m pip install {name}'
        return reinstall(missing[1])
    culprit = re.search(
        r"(MMCV|MMEngine)==\S+ is used but incompatible|"
        r"cannot import name '\w+' from .*?'(\w+)", error)
    if culprit:
        return reinstall((culprit[1] or culprit[2]).lower())
    frames = re.findall(r'File ".*-packages/(\w+)', error)
    return reinstall(frames[-1] if frames else module)


def run_checks(names: Sequence[str]) -> list[Finding]:
    """Run checks in a child process; after a crash, the rest in another."""
    findings: list[Finding] = []
    path = os.pathsep.join(
        filter(None, [os.environ.get('PYTHONPATH'),
                      str(ROOT)]))
    while len(findings) < len(names):
        rest = list(names[len(findings):])
        code = f'from mmhier.cli import doctor; doctor.report_checks({rest})'
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run([sys.executable, '-c', code],
                                      stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL,
                                      cwd=folder,
                                      env=dict(os.environ, PYTHONPATH=path),
                                      timeout=CHILD_SECONDS)
                output, status = done.stdout, done.returncode
            except subprocess.TimeoutExpired as error:
                output, status = error.stdout or b'', None
        reported = [
            Finding(**json.loads(line.removeprefix(MARK)))
            for line in output.decode().splitlines() if line.startswith(MARK)
        ]
        findings += reported
        if len(reported) < len(rest):
            name = rest[len(reported)]
            ends = {
                None: f'no answer in {CHILD_SECONDS} s',
                -9: 'killed, probably for lack of memory'
            }
            fix = '' if status in ends else reinstall(
                RUNS.get(name,
                         name.split()[-1].split('.')[0]))
            detail = ends.get(status, f'crashed, code {status}')
            findings.append(Finding(name, 'FAIL', detail, fix))
    return findings


def report_checks(names: Sequence[str]) -> None:
    """Run checks one after another and print a line of json for each."""
    for name in names:
        try:
            if name in RUNS:
                runs = importlib.import_module('mmhier.cli.doctor_runs')
                finding = getattr(runs, name.replace(' ', '_'))()
            else:
                module = importlib.import_module(name.split()[-1])
                finding = Finding(name, 'ok',
                                  getattr(module, '__version__', 'imported'))
        except Exception as error:  # anything can be broken here
            text, fix = traceback.format_exc(), ''
            if isinstance(error, AssertionError) and name in RUNS:
                fix = reinstall(RUNS[name])
            elif (name not in RUNS or isinstance(error, ImportError)
                  or re.search('torchvision::|Numpy is not', text)):
                fix = find_fix(name.split()[-1].split('.')[0], text)
            detail = f'{type(error).__name__}: {error}'.splitlines()[0]
            finding = Finding(name, 'FAIL', detail, fix)
        print(MARK + json.dumps(vars(finding)), flush=True)
