"""Check the installation: versions, imports, operators, and a small real run
of each part. Needs nothing but Python itself, so it works where torch or
OpenMMLab cannot be imported.

Examples:
    python tools/doctor.py            # a table, and the command for each fault
    python tools/doctor.py --fix      # run these commands, and check again
    python tools/doctor.py --unfix    # take mmcv/_ext.py of mmhier away
    python tools/doctor.py --checkpoint FILE    # read this file safely, too
"""
import argparse
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

# The tested versions, as in requirements/pinned.txt and original.txt.
TORCH = {'torch': '2.11.0', 'torchvision': '0.26.0'}
MAINTAINED = {
    'mmengine': ('onedl-mmengine', '0.10.12'),
    'mmcv': ('onedl-mmcv', '2.3.6'),
    'mmdet': ('onedl-mmdetection', '3.5.1'),
    'mmseg': ('onedl-mmsegmentation', '1.4.2'),
    'mmpretrain': ('onedl-mmpretrain', '1.3.6'),
}
ORIGINAL = {
    'mmengine': ('mmengine', '0.10.7'),
    'mmcv': ('mmcv-lite', '2.1.0'),
    'mmdet': ('mmdet', '3.3.0'),
    'mmseg': ('mmsegmentation', '1.2.2'),
    'mmpretrain': ('mmpretrain', '1.2.0'),
}
ARRAYS = {'numpy': '2.2.6', 'pycocotools': '2.0.11'}
OPENCV = '4.12.0.88'
# The first versions whose wheels are built for numpy 2.
NUMPY_2 = {
    'opencv-python': (4, 10),
    'opencv-python-headless': (4, 10),
    'pycocotools': (2, 0, 8),
}
# Builds of torch 2.11 at download.pytorch.org, and the CUDA that a driver has
# to take, by its own word, to run them; within 12.x, older ones will do.
# The first one alone has code for GPUs older than Turing, 7.5.
BUILDS = {'cu126': (12, 0), 'cu128': (12, 8), 'cu130': (13, 0)}
# Distributions of modules with another name, and those that mmsegmentation
# imports without requiring them.
DISTRIBUTIONS = {'PIL': 'pillow', 'yaml': 'pyyaml', 'skimage': 'scikit-image'}
UNDECLARED = ('ftfy', 'regex')
MODULES = ('numpy', 'torch', 'torchvision', 'cv2', 'pycocotools.mask',
           *MAINTAINED, 'mmhier')
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PIP = f'{shlex.quote(sys.executable)} -m pip install'
REINSTALL = f'{PIP} --force-reinstall --no-deps --no-cache-dir'
UNINSTALL = f'{shlex.quote(sys.executable)} -m pip uninstall -y'
OPERATORS = f'{shlex.quote(sys.executable)} -m mmhier.ops'
CHILD_SECONDS = 600
# Starts a line of the other process that is meant for this one.
MARK = '@doctor '


@dataclass
class Finding:
    """Outcome of one check.

    Attributes:
        name (str): What was checked.
        state (str): 'ok', 'note' (works, could be better) or 'FAIL'.
        detail (str): Version, figure or error in one line.
        fixes (list[str]): Commands that mend it.
    """
    name: str
    state: str
    detail: str
    fixes: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        '--fix',
        action='store_true',
        help='run the commands that mend what was found, then check again')
    action.add_argument(
        '--unfix',
        action='store_true',
        help='remove the mmcv/_ext.py that --fix wrote; compiled operators '
        'are never touched')
    action.add_argument('--run', nargs='+', help=argparse.SUPPRESS)
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='also read this file as the tools do, without executing anything '
        'in it, and tell what it holds')
    args = parser.parse_args()
    if args.run:
        _report_checks(args.run)
        return 0
    if args.unfix:
        return subprocess.call(shlex.split(f'{OPERATORS} remove'))

    def look() -> list[Finding]:
        findings = examine()
        if args.checkpoint:
            path = os.path.abspath(args.checkpoint)
            findings += _run_checks([f'{CHECKPOINT}{path}'])
        print_findings(findings)
        return findings

    findings = look()
    fixes = list(dict.fromkeys(c for f in findings for c in f.fixes))
    if args.fix and fixes:
        for command in fixes:
            print(f'\n$ {command}', flush=True)
            if subprocess.call(shlex.split(command)) != 0:
                print(
                    f'error: this command failed, nothing after it was run: '
                    f'{command}',
                    file=sys.stderr)
                return 1
        print()
        findings = look()
    return int(any(f.state == 'FAIL' for f in findings))


def examine() -> list[Finding]:
    """Run every check, those that import anything in another process.

    Returns:
        list[Finding]: In the order in which they should be mended.
    """
    findings = [
        _check_python(),
        _check_line(),
        _check_torch_pair(),
        _check_numpy(),
        _check_setuptools()
    ]
    findings += _run_checks([f'import {module}' for module in MODULES])
    if all(f.state != 'FAIL' for f in findings):
        return findings + _run_checks(list(RUNS))
    return findings + [
        Finding(name, 'note', 'not run: mend the above first') for name in RUNS
    ]


def print_findings(findings: list[Finding]) -> None:
    """Print the table, then what to do about each fault."""
    width = max(len(f.name) for f in findings)
    for f in findings:
        print(f'{f.name:{width}}  {f.state:4}  {f.detail}')
    for f in findings:
        if f.fixes:
            print(f'\n{f.name}: {f.detail}')
            for command in f.fixes:
                print(f'    {command}')
        elif f.state == 'FAIL' and not f.name.startswith(CHECKPOINT):
            print(f'\n{f.name}: {f.detail}\n    no command is known to mend '
                  'this: report it to the authors of mmhier, with all that '
                  'this tool printed')
    failed = sum(f.state == 'FAIL' for f in findings)
    print(f'\n{failed} of {len(findings)} checks failed'
          if failed else f'\nall {len(findings)} checks passed')


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_python() -> Finding:
    found = '.'.join(map(str, sys.version_info[:3]))
    return Finding('python', 'ok', f'{found} ({sys.executable})')


def _line() -> dict[str, tuple[str, str]]:
    """Distributions of the OpenMMLab line in use, the maintained one where
    there is none."""
    original = any(_installed(name) for name, _ in ORIGINAL.values())
    maintained = any(_installed(name) for name, _ in MAINTAINED.values())
    return ORIGINAL if original and not maintained else MAINTAINED


def _check_line() -> Finding:
    """Which of the two OpenMMLab lines is installed; both is a fault, since
    their packages overwrite each other's files."""
    names = {'maintained': MAINTAINED, 'original': ORIGINAL}
    found = {
        line: [d for d, _ in packages.values() if _installed(d)]
        for line, packages in names.items()
    }
    if _installed('mmcv'):
        found['original'].append('mmcv')
    if found['maintained'] and found['original']:
        return Finding(
            'OpenMMLab', 'FAIL', 'two lines over each other: ' +
            ', '.join(found['maintained'] + found['original']), [
                f'{UNINSTALL} ' + ' '.join(found['original']),
                f'{PIP} --force-reinstall --no-deps ' +
                ' '.join(f'{d}=={v}' for d, v in MAINTAINED.values())
            ])
    line = next((name for name in found if found[name]), None)
    if line is None:
        return Finding(
            'OpenMMLab', 'FAIL', 'not installed',
            [f'{PIP} ' + ' '.join(f'{d}=={v}' for d, v in MAINTAINED.values())])
    versions = ', '.join(f'{d} {_installed(d)}' for d in found[line])
    return Finding('OpenMMLab', 'ok', f'{line} line: {versions}')


def _check_torch_pair() -> Finding:
    """torchvision 0.(n + 15) belongs to torch 2.n."""
    torch, torchvision = _installed('torch'), _installed('torchvision')
    name, fix = 'torch pair', [
        f'{PIP} ' + ' '.join(f'{d}=={v}' for d, v in TORCH.items())
    ]
    if torch is None or torchvision is None:
        missing = 'torch' if torch is None else 'torchvision'
        return Finding(name, 'FAIL', f'{missing} is not installed', fix)
    major, minor = map(int, torch.split('.')[:2])
    if (major, minor) < (2, 6):
        return Finding(name, 'FAIL', f'torch {torch}, mmhier needs 2.6 or '
                       'newer', fix)
    expected = f'0.{minor + 15}.'
    label = torch.partition('+')[2]
    index = f'{_index(label)} ' if label else ''
    if major == 2 and not torchvision.startswith(expected):
        return Finding(
            name, 'FAIL', f'torchvision {torchvision} was built for another '
            f'torch than {torch}', [f'{PIP} {index}"torchvision=={expected}*"'])
    return Finding(name, 'ok', f'torch {torch}, torchvision {torchvision}')


def _check_setuptools() -> Finding:
    """The original line imports pkg_resources, which setuptools 82 dropped."""
    found = _installed('setuptools')
    if _line() is ORIGINAL and (found is None
                                or int(found.split('.')[0]) >= 82):
        return Finding(
            'setuptools', 'FAIL', f'{found or "missing"}: the '
            'original OpenMMLab line needs pkg_resources',
            [f'{PIP} "setuptools<81"'])
    return Finding('setuptools', 'ok', found or 'none, and none is needed')


def _check_numpy() -> Finding:
    """The version, against those that the compiled packages are built for,
    and those that all say they need."""
    found = _installed('numpy')
    if found is None:
        return Finding('numpy', 'FAIL', 'not installed', _array_fixes())
    old = [
        f'{name} {_installed(name)}' for name, first in NUMPY_2.items()
        if _installed(name) and _numbers(_installed(name)) < first
    ]
    if old and _numbers(found) >= (2, ):
        return Finding('numpy', 'FAIL', f'{found}, but {", ".join(old)} '
                       'is built for numpy 1', _array_fixes())
    unmet = [
        f'{name} needs numpy{wanted}' for name, wanted in _numpy_wanted()
        if found not in wanted
    ]
    if unmet:
        return Finding('numpy', 'note', f'{found}, but {", ".join(unmet)}',
                       [f'{PIP} numpy=={ARRAYS["numpy"]}'])
    return Finding('numpy', 'ok', found)


def _numpy_wanted() -> list[tuple[str, Any]]:
    """What the installed packages say about numpy; nothing without
    packaging, which OpenMMLab brings."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return []
    wanted = []
    for name in (*TORCH, *NUMPY_2, *(d for d, _ in _line().values())):
        for text in _requirements(name):
            requirement = Requirement(text)
            if requirement.name == 'numpy' and (requirement.marker is None
                                                or requirement.marker.evaluate(
                                                    {'extra': ''})):
                wanted.append((name, requirement.specifier))
    return wanted


def _requirements(distribution: str) -> list[str]:
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []


def _numbers(found: str | None) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', found or '')[:3]))


def _index(build: str) -> str:
    return f'--extra-index-url https://download.pytorch.org/whl/{build}'


def _torch_fix(build: str | None = None) -> str:
    """Command that installs torch and torchvision anew, of the same build as
    now if no other is given."""
    build = build or (_installed('torch') or '').partition('+')[2]
    index, label = '', ''
    if build in (*BUILDS, 'cpu'):
        index, label = f' {_index(build)}', f'+{build}'
    # With what torch needs, of which a newer numpy would not suit OpenCV.
    return f'{PIP} --force-reinstall --no-cache-dir{index} ' + ' '.join(
        [f'{d}=={v}{label}'
         for d, v in TORCH.items()] + [f'numpy=={ARRAYS["numpy"]}'])


def _array_fixes() -> list[str]:
    """Commands that install numpy and what is compiled against it anew."""
    packages = [f'{d}=={v}' for d, v in ARRAYS.items()]
    if _installed('opencv-python'):
        packages.append(f'opencv-python=={OPENCV}')
    # Over the files of opencv-python, which needs a graphical system.
    return [
        f'{REINSTALL} ' + ' '.join(packages),
        f'{REINSTALL} opencv-python-headless=={OPENCV}'
    ]


def _package_fixes(package: str) -> list[str]:
    """Commands that install anew what a module of the stack belongs to."""
    if package in TORCH:
        return [_torch_fix()]
    if package in ('numpy', 'pycocotools', 'cv2'):
        return _array_fixes()
    if package in MAINTAINED:
        distribution, wanted = _line()[package]
        return [f'{REINSTALL} {distribution}=={wanted}']
    return []


def _mmcv_fixes() -> list[str]:
    fixes = [*_package_fixes('mmcv'), f'{OPERATORS} install']
    if _line()['mmcv'][0] == 'mmcv-lite' and _installed('mmcv'):
        fixes.insert(0, f'{UNINSTALL} mmcv')
    return fixes


def _missing_fixes(module: str) -> list[str]:
    """Commands for a module that is not there: its distribution, where the
    stack is known to need it."""
    if module == 'mmhier' and os.path.isfile(os.path.join(ROOT, 'setup.py')):
        return [f'{PIP} -e {shlex.quote(ROOT)}']
    name = DISTRIBUTIONS.get(module, module).replace('_', '-')
    needed = {
        re.split(r'[^\w.-]', requirement)[0].lower().replace('_', '-')
        for d in (*TORCH, *(d for d, _ in _line().values()))
        for requirement in _requirements(d)
    }
    fixes = _package_fixes(module)
    if not fixes and name.lower() in {*needed, *UNDECLARED}:
        fixes = [f'{PIP} {name}']
    return fixes


def _import_fixes(package: str, error: str) -> list[str]:
    """Commands for an import that failed.

    Args:
        package (str): What was imported, '' if unknown.
        error (str): The traceback.
    """
    if 'libGL' in error or 'libgthread' in error:
        return _array_fixes()[1:]
    if 'numpy.dtype size changed' in error or 'numpy.core' in error:
        return _array_fixes()
    if "No module named 'pkg_resources'" in error:
        return [f'{PIP} "setuptools<81"']
    if 'torchvision::' in error:
        return [_torch_fix()]
    missing = re.search(r"No module named '(\w+)", error)
    if missing:
        return _package_fixes(package if package in TORCH else '') or (
            _missing_fixes(missing[1]))
    culprit = re.search(
        r"(MMCV|MMEngine)==\S+ is used but incompatible|"
        r"cannot import name '\w+' from .*?'(\w+)", error)
    if culprit:
        return _package_fixes((culprit[1] or culprit[2]).lower())
    frames = re.findall(r'File ".*-packages/(\w+)', error)
    return _package_fixes(frames[-1] if frames else package)


def _operator_fixes() -> list[str]:
    """Commands for operators that do not work: mmcv's own, if it has any."""
    spec = importlib.util.find_spec('mmcv')
    names = os.listdir(os.path.dirname(
        spec.origin)) if (spec and spec.origin) else []
    compiled = any(
        name.startswith('_ext') and not name.endswith('.py') for name in names)
    return _mmcv_fixes() if compiled else [_torch_fix()]


def _run_fixes(name: str, error: BaseException) -> list[str]:
    """Commands for a check that ended with an exception."""
    text = ''.join(
        traceback.format_exception(type(error), error, error.__traceback__))
    if name.startswith('import '):
        return _import_fixes(name.split()[-1].split('.')[0], text)
    if isinstance(error, ImportError) or 'torchvision::' in text:
        return _import_fixes('', text)
    wrong = isinstance(error,
                       AssertionError) or (name in COMPUTING and isinstance(
                           error, RuntimeError) and 'memory' not in text)
    return MENDS[name]() if wrong and name in MENDS else []


def _run_checks(names: Sequence[str]) -> list[Finding]:
    """Run checks in a process of their own, and in another one those behind
    a check that brought the process down."""
    findings: list[Finding] = []
    while len(findings) < len(names):
        rest = names[len(findings):]
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    [sys.executable,
                     os.path.abspath(__file__), '--run', *rest],
                    capture_output=True,
                    text=True,
                    cwd=folder,
                    timeout=CHILD_SECONDS)
                output, code = done.stdout, done.returncode
                end = f'crashed, code {code}'
                if code == -signal.SIGKILL:
                    end = 'killed from outside, probably for lack of memory'
            except subprocess.TimeoutExpired as error:
                output, code = (error.stdout or b'').decode(), None
                end = f'no answer in {CHILD_SECONDS} s'
        reported = [
            Finding(**json.loads(line[len(MARK):]))
            for line in output.splitlines() if line.startswith(MARK)
        ]
        findings += reported
        if len(reported) < len(rest):
            name = rest[len(reported)]
            fixes = []
            if code in CRASHES:
                fixes = (
                    MENDS[name]() if name in MENDS else
                    _package_fixes(name.split()[-1].split('.')[0])
                    if name.startswith('import ') else [])
            findings.append(Finding(name, 'FAIL', end, fixes))
    return findings


def _report_checks(names: Sequence[str]) -> None:
    """Run checks one after another and print a line of json for each."""
    for name in names:
        check = CHECKS.get(name) or partial(_run_checkpoint,
                                            name[len(CHECKPOINT):])
        try:
            result = check()
        except Exception as error:  # anything can be broken here
            text = f'{type(error).__name__}: {error}'
            result = dict(
                state='FAIL',
                detail=text.splitlines()[0],
                fixes=_run_fixes(name, error))
        print(MARK + json.dumps(dict(result, name=name)), flush=True)


def _run_import(module: str) -> dict:
    imported = importlib.import_module(module)
    return dict(state='ok', detail=getattr(imported, '__version__', 'imported'))


def _run_operator_source() -> dict:
    from mmhier.ops import describe_operators, operator_source
    from mmhier.ops.shim import find_mmcv_folder, is_shim
    source, detail = operator_source(), describe_operators()
    shim = is_shim(find_mmcv_folder() / '_ext.py')
    if source == 'compiled' or (source == 'torchvision' and shim):
        return dict(state='ok', detail=detail)
    if source == 'torchvision':
        return dict(
            state='note',
            detail=detail + '; programs that import mmdet before mmhier, or '
            'never mmhier, have none',
            fixes=[f'{OPERATORS} install'])
    return dict(state='FAIL', detail=detail, fixes=_mmcv_fixes())


def _run_arrays() -> dict:
    """What is compiled against numpy hands arrays over."""
    import cv2
    import numpy as np
    import torch
    from pycocotools import mask
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert torch.from_numpy(ramp).sum().item() == 66, 'torch misreads numpy'
    flipped = cv2.flip(torch.from_numpy(ramp).numpy(), 1)
    assert flipped[0].tolist() == [3, 2, 1, 0], 'cv2 misreads numpy'
    area = mask.area(mask.encode(np.asfortranarray(ramp > 5).astype('u1')))
    assert area == 6, 'pycocotools misreads numpy'
    return dict(state='ok', detail='torch, cv2 and pycocotools take numpy\'s')


def _run_operators() -> dict:
    """NMS and RoIAlign of mmcv with answers known beforehand."""
    import torch
    from mmcv.ops import nms, roi_align
    import mmhier  # noqa: F401
    boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    assert kept.tolist() == [0, 2], f'nms keeps {kept.tolist()}, not [0, 2]'
    # On a ramp, the mean over a box is the value at its centre.
    ramp = torch.arange(16.).expand(1, 1, 16, 16).contiguous()
    ramp.requires_grad_()
    pooled = roi_align(ramp, torch.tensor([[0., 2, 2, 6, 6]]), 1, 1.0, 2)
    assert abs(pooled.item() - 3.5) < 1e-5, f'roi_align: {pooled.item()}'
    pooled.sum().backward()
    total = ramp.grad.sum().item()
    assert abs(total - 1) < 1e-5, f'roi_align gradient: {total}'
    return dict(state='ok', detail='nms and roi_align give the known answers')


def _run_training_step() -> dict:
    """A backbone, forward and backward."""
    import torch
    from mmhier.models import HATNet
    model = HATNet(arch='tiny').train()
    sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
    dead = [
        n for n, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not dead, f'{len(dead)} parameters without gradient: {dead[:3]}'
    return dict(state='ok', detail='HATNet tiny, forward and backward')


def _run_resume() -> dict:
    """Two iterations, saved, and two more after reading the file safely."""
    import torch
    from mmengine.model import BaseModel
    from mmhier.checkpoints import read_checkpoint
    from mmhier.engine.runner import Runner

    class Line(BaseModel):

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, inputs, mode='tensor'):
            return dict(loss=(self.weight * inputs - 2).square().mean())

    def run(max_iters: int, resume: bool) -> Runner:
        runner = Runner(
            Line(),
            work_dir='resume',
            resume=resume,
            log_level='ERROR',
            experiment_name=f'doctor-{max_iters}',
            train_dataloader=dict(
                dataset=[dict(inputs=torch.ones(1))] * 8,
                batch_size=2,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='InfiniteSampler')),
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook', by_epoch=False, interval=2)))
        runner.train()
        return runner

    run(2, resume=False)
    saved = read_checkpoint('resume/iter_2.pth')
    runner = run(4, resume=True)
    iters = saved['meta']['iter'], runner.iter
    assert iters == (2, 4), f'saved and resumed iterations are {iters}'
    moved = (runner.model.weight - saved['state_dict']['weight']).item()
    assert 0 < moved < 0.5, f'the weight moved by {moved} after resuming'
    return dict(state='ok', detail='saved after 2 iterations, went on to 4')


def _run_two_processes() -> dict:
    """Gradients of two processes are averaged."""
    import torch
    try:
        torch.multiprocessing.spawn(_average_gradients, nprocs=2)
    except torch.multiprocessing.ProcessRaisedException as error:
        kind, _, text = str(error).strip().splitlines()[-1].partition(': ')
        if kind == 'AssertionError':
            raise AssertionError(text) from error
        raise RuntimeError(
            f'{text or kind}. If they cannot reach each other, try again with '
            'GLOO_SOCKET_IFNAME=lo in the environment') from error
    return dict(state='ok', detail='DDP of two processes over gloo')


def _average_gradients(rank: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    dist.init_process_group(
        'gloo',
        init_method=f'file://{os.getcwd()}/gloo',
        rank=rank,
        world_size=2)
    linear = DistributedDataParallel(torch.nn.Linear(1, 1))
    linear(torch.full((1, 1), 1. + 2 * rank)).sum().backward()
    gradient = linear.module.weight.grad.item()
    assert gradient == 2, f'gradient {gradient}, not the mean of 1 and 3'
    dist.destroy_process_group()


def _run_bf16() -> dict:
    import torch
    from mmhier.models import HATNet
    model = HATNet(arch='tiny').eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)[-1]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rounded = model(images)[-1].float()
    error = ((rounded - exact).std() / exact.std()).item()
    assert error < 0.1, f'bfloat16 differs by {error:.2f} of the deviation'
    return dict(state='ok', detail=f'bfloat16 within {error:.3f} of float32')


def _run_compile() -> dict:
    """torch.compile, which speeds up and is not needed."""
    import torch
    x = torch.linspace(0, 1, 64)
    try:
        compiled = torch.compile(lambda v: v.sin() + 1)(x)
    except Exception as error:  # the backends raise what they like
        line = str(error).strip().splitlines()[0]
        packages = {'No working C++ compiler': 'g++', 'Python.h': 'python3-dev'}
        lacking = [p for text, p in packages.items() if text in str(error)]
        fixes = []
        if lacking and shutil.which('apt-get'):
            sudo = 'sudo ' if os.geteuid() else ''
            fixes = [
                f'{sudo}apt-get update',
                f'{sudo}apt-get install -y {lacking[0]}'
            ]
        return dict(state='note', detail=f'torch.compile: {line}', fixes=fixes)
    wrong = (compiled - x.sin() - 1).abs().max().item()
    assert wrong < 1e-5, f'compiled code is wrong by {wrong:g}'
    return dict(state='ok', detail='torch.compile works')


def _run_cuda() -> dict:
    import torch
    if torch.cuda.is_available():
        names = []
        for i in range(torch.cuda.device_count()):
            names.append(torch.cuda.get_device_name(i))
            ones = torch.ones(8, 8)
            try:
                ones = ones.to(f'cuda:{i}')
                total = (ones @ ones).sum().item()
            except RuntimeError as error:
                if 'no kernel image' not in str(error):
                    raise
                build = _cuda_build(_driver_cuda(),
                                    torch.cuda.get_device_capability(i))
                return dict(
                    state='FAIL',
                    detail=f'this torch has no code for '
                    f'{names[i]}',
                    fixes=[_torch_fix(build)])
            assert total == 512, f'{names[i]} computes {total}, not 512'
        return dict(state='ok', detail=', '.join(names))
    if os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        return dict(state='ok', detail='hidden by CUDA_VISIBLE_DEVICES')
    if shutil.which('nvidia-smi') is None:
        return dict(state='ok', detail='no NVIDIA driver: runs on the CPU')
    driver = _driver_cuda()
    if driver is None:
        return dict(
            state='FAIL',
            detail='nvidia-smi does not reach the '
            'driver: install it again, or restart the machine')
    takes = 'a driver is there, for CUDA {}.{}'.format(*driver)
    built, build = torch.version.cuda, _cuda_build(driver)
    if built is None:
        if build == 'cpu':
            return dict(
                state='note',
                detail=f'{takes}, too old for torch '
                f'{TORCH["torch"]}: runs on the CPU')
        detail = f'{takes}, but this torch is built without CUDA'
    elif _numbers(built)[0] <= driver[0]:
        # Any driver runs what is built for an older CUDA, or one of its own
        # major version.
        try:
            torch.cuda.init()
            reason = 'no device'
        except (AssertionError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
        return dict(
            state='FAIL',
            detail=f'{takes}, which takes that of torch, '
            f'{built}, but finds no GPU ({reason}): look at nvidia-smi; a '
            'container needs --gpus all')
    else:
        detail = (f'{takes}, but torch is built for CUDA {built}, which it '
                  'does not take')
    return dict(state='FAIL', detail=detail, fixes=[_torch_fix(build)])


def _driver_cuda() -> tuple[int, ...] | None:
    """Newest CUDA of the driver, None if it does not answer."""
    try:
        done = subprocess.run(['nvidia-smi'],
                              capture_output=True,
                              text=True,
                              timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'CUDA Version: (\d+)\.(\d+)', done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _cuda_build(
    driver: tuple[int, ...] | None, capability: tuple[int,
                                                      int] = (7, 5)) -> str:
    """Build of torch for a driver, and for a GPU; 'cpu' if there is none."""
    fitting = [b for b, cuda in BUILDS.items() if driver and cuda <= driver]
    if capability < (7, 5):
        fitting = fitting[:1]
    return fitting[-1] if fitting else 'cpu'


def _run_checkpoint(path: str) -> dict:
    from mmhier.checkpoints import read_checkpoint, unwrap_state_dict
    content = read_checkpoint(path)
    weights = unwrap_state_dict(content)
    count = sum(value.numel() for value in weights.values()) / 1e6
    return dict(
        state='ok',
        detail=f'read without executing anything: '
        f'{len(weights)} tensors of weights, {count:.2f} M values; '
        f'its keys are {", ".join(map(str, list(content)[:8]))}')


RUNS: dict[str, Callable[[], dict]] = {
    'operator source': _run_operator_source,
    'arrays': _run_arrays,
    'operators': _run_operators,
    'training step': _run_training_step,
    'save and resume': _run_resume,
    'two processes': _run_two_processes,
    'bfloat16': _run_bf16,
    'compile': _run_compile,
    'CUDA': _run_cuda,
}
CHECKS = {
    **{
        f'import {module}': partial(_run_import, module)
        for module in MODULES
    },
    **RUNS
}
CHECKPOINT = 'checkpoint '
# What can mend a check that computes the wrong thing or crashes.
MENDS: dict[str, Callable[[], list[str]]] = {
    'arrays': _array_fixes,
    'operators': _operator_fixes,
    'training step': partial(_package_fixes, 'torch'),
    'save and resume': partial(_package_fixes, 'mmengine'),
    'two processes': partial(_package_fixes, 'torch'),
    'bfloat16': partial(_package_fixes, 'torch'),
    'compile': partial(_package_fixes, 'torch'),
}
# Those that need nothing but memory of the machine.
COMPUTING = ('arrays', 'operators', 'training step', 'bfloat16')
CRASHES = [
    -getattr(signal, name)
    for name in ('SIGABRT', 'SIGBUS', 'SIGFPE', 'SIGILL', 'SIGSEGV')
    if hasattr(signal, name)
]

if __name__ == '__main__':
    sys.exit(main())
