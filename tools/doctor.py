"""Check the installation: versions, imports, operators, and a small real run
of each part. Needs nothing but Python itself, so it works where torch or
OpenMMLab cannot be imported.

Examples:
    python tools/doctor.py            # a table, and the command for each fault
    python tools/doctor.py --fix      # run these commands, and check again
    python tools/doctor.py --unfix    # take mmcv/_ext.py of mmhier away
"""
import argparse
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Callable, Dict, List, Optional, Sequence, Tuple

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
MODULES = ('torch', 'torchvision', 'cv2', 'pycocotools.mask', *MAINTAINED,
           'mmhier')
PIP = f'{shlex.quote(sys.executable)} -m pip install'
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
    fixes: List[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        '--fix', action='store_true',
        help='run the commands that mend what was found, then check again')
    action.add_argument(
        '--unfix', action='store_true',
        help='remove the mmcv/_ext.py that --fix wrote; compiled operators '
        'are never touched')
    action.add_argument(
        '--run', nargs='+', choices=CHECKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        _report_checks(args.run)
        return 0
    if args.unfix:
        return subprocess.call(shlex.split(f'{OPERATORS} remove'))
    findings = examine()
    print_findings(findings)
    fixes = list(dict.fromkeys(c for f in findings for c in f.fixes))
    if args.fix and fixes:
        for command in fixes:
            print(f'\n$ {command}', flush=True)
            if subprocess.call(shlex.split(command)) != 0:
                print(f'error: this command failed, nothing after it was run: '
                      f'{command}', file=sys.stderr)
                return 1
        print()
        findings = examine()
        print_findings(findings)
    return int(any(f.state == 'FAIL' for f in findings))


def examine() -> List[Finding]:
    """Run every check, those that import anything in another process.

    Returns:
        list[Finding]: In the order in which they should be mended.
    """
    findings = [_check_python(), _check_line(), _check_torch_pair(),
                _check_setuptools()]
    findings += _run_checks([f'import {module}' for module in MODULES])
    if all(f.state != 'FAIL' for f in findings):
        return findings + _run_checks(list(RUNS))
    return findings + [
        Finding(name, 'note', 'not run: mend the above first') for name in RUNS
    ]


def print_findings(findings: List[Finding]) -> None:
    """Print the table, then what to do about each fault."""
    width = max(len(f.name) for f in findings)
    for f in findings:
        print(f'{f.name:{width}}  {f.state:4}  {f.detail}')
    for f in findings:
        if f.fixes:
            print(f'\n{f.name}: {f.detail}')
            for command in f.fixes:
                print(f'    {command}')
    failed = sum(f.state == 'FAIL' for f in findings)
    print(f'\n{failed} of {len(findings)} checks failed'
          if failed else f'\nall {len(findings)} checks passed')


def _installed(distribution: str) -> Optional[str]:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _check_python() -> Finding:
    found = '.'.join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 10):
        return Finding('python', 'FAIL', f'{found}, mmhier needs 3.10 or newer',
                       ['python3.11 -m venv .venv'])
    return Finding('python', 'ok', f'{found} ({sys.executable})')


def _line() -> Dict[str, Tuple[str, str]]:
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
            'OpenMMLab', 'FAIL',
            'two lines over each other: ' + ', '.join(
                found['maintained'] + found['original']),
            [f'{UNINSTALL} ' + ' '.join(found['original']),
             f'{PIP} --force-reinstall --no-deps ' + ' '.join(
                 f'{d}=={v}' for d, v in MAINTAINED.values())])
    line = next((name for name in found if found[name]), None)
    if line is None:
        return Finding('OpenMMLab', 'FAIL', 'not installed', [
            f'{PIP} ' + ' '.join(f'{d}=={v}' for d, v in MAINTAINED.values())])
    versions = ', '.join(f'{d} {_installed(d)}' for d in found[line])
    return Finding('OpenMMLab', 'ok', f'{line} line: {versions}')


def _check_torch_pair() -> Finding:
    """torchvision 0.(n + 15) belongs to torch 2.n."""
    torch, torchvision = _installed('torch'), _installed('torchvision')
    name, fix = 'torch pair', [
        f'{PIP} ' + ' '.join(f'{d}=={v}' for d, v in TORCH.items())]
    if torch is None or torchvision is None:
        missing = 'torch' if torch is None else 'torchvision'
        return Finding(name, 'FAIL', f'{missing} is not installed', fix)
    major, minor = map(int, torch.split('.')[:2])
    if (major, minor) < (2, 6):
        return Finding(name, 'FAIL', f'torch {torch}, mmhier needs 2.6 or '
                       'newer', fix)
    expected = f'0.{minor + 15}.'
    if major == 2 and not torchvision.startswith(expected):
        return Finding(
            name, 'FAIL', f'torchvision {torchvision} was built for another '
            f'torch than {torch}',
            [f'{PIP} "torchvision=={expected}*"'])
    return Finding(name, 'ok', f'torch {torch}, torchvision {torchvision}')


def _check_setuptools() -> Finding:
    """The original line imports pkg_resources, which setuptools 82 dropped."""
    found = _installed('setuptools')
    if _line() is ORIGINAL and (found is None
                                or int(found.split('.')[0]) >= 82):
        return Finding('setuptools', 'FAIL', f'{found or "missing"}: the '
                       'original OpenMMLab line needs pkg_resources',
                       [f'{PIP} "setuptools<81"'])
    return Finding('setuptools', 'ok', found or 'none, and none is needed')


def _import_fixes(module: str, error: str) -> List[str]:
    """Commands for an import that failed."""
    package = module.split('.')[0]
    if 'libGL' in error or 'libgthread' in error:
        return [f'{PIP} --force-reinstall --no-deps opencv-python-headless']
    if 'numpy.dtype size changed' in error or 'numpy.core' in error:
        return [f'{PIP} --force-reinstall --no-deps --no-cache-dir '
                'pycocotools']
    if "No module named 'pkg_resources'" in error:
        return [f'{PIP} "setuptools<81"']
    if 'torchvision::nms' in error or package in TORCH:
        return [f'{PIP} --force-reinstall ' + ' '.join(
            f'{d}=={v}' for d, v in TORCH.items())]
    incompatible = re.search(r'(MMCV|MMEngine)==\S+ is used but incompatible',
                             error)
    missing = re.search(r"No module named '(\w+)", error)
    culprit = (incompatible[1].lower() if incompatible else
               missing[1] if missing else package)
    if culprit in MAINTAINED:
        distribution, wanted = _line()[culprit]
        return [f'{PIP} --force-reinstall --no-deps --no-cache-dir '
                f'{distribution}=={wanted}']
    if culprit == 'mmhier':
        return [f'{PIP} -e ' + shlex.quote(
            os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]
    if culprit == 'cv2':
        return [f'{PIP} opencv-python-headless']
    if culprit == package or missing:
        return [f'{PIP} {culprit}']
    return []


def _run_checks(names: Sequence[str]) -> List[Finding]:
    """Run checks in a process of their own, and in another one those behind
    a check that brought the process down."""
    findings: List[Finding] = []
    while len(findings) < len(names):
        rest = names[len(findings):]
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    [sys.executable, os.path.abspath(__file__), '--run', *rest],
                    capture_output=True, text=True, cwd=folder,
                    timeout=CHILD_SECONDS)
                output, end = done.stdout, f'crashed, code {done.returncode}'
            except subprocess.TimeoutExpired as error:
                output = (error.stdout or b'').decode()
                end = f'no answer in {CHILD_SECONDS} s'
        reported = [
            Finding(**json.loads(line[len(MARK):]))
            for line in output.splitlines() if line.startswith(MARK)
        ]
        findings += reported
        if len(reported) < len(rest):
            findings.append(Finding(rest[len(reported)], 'FAIL', end))
    return findings


def _report_checks(names: Sequence[str]) -> None:
    """Run checks one after another and print a line of json for each."""
    for name in names:
        try:
            result = CHECKS[name]()
        except Exception as error:  # anything can be broken here
            text = f'{type(error).__name__}: {error}'
            fixes = []
            if isinstance(error, (ImportError, AssertionError)) or (
                    name.startswith('import ')):
                fixes = _import_fixes(name.split()[-1],
                                      traceback.format_exc())
            result = dict(state='FAIL', detail=text.splitlines()[0],
                          fixes=fixes)
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
    distribution, wanted = _line()['mmcv']
    reinstall = [f'{PIP} --force-reinstall --no-deps --no-cache-dir '
                 f'{distribution}=={wanted}', f'{OPERATORS} install']
    if distribution == 'mmcv-lite' and _installed('mmcv'):
        reinstall.insert(0, f'{UNINSTALL} mmcv')
    return dict(state='FAIL', detail=detail, fixes=reinstall)


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
    dead = [n for n, p in model.named_parameters()
            if p.grad is None or not p.grad.isfinite().all()]
    assert not dead, f'{len(dead)} parameters without gradient: {dead[:3]}'
    return dict(state='ok', detail='HATNet tiny, forward and backward')


def _run_resume() -> dict:
    """Two iterations, saved, and two more after reading the file safely."""
    import torch
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from mmhier.apis.checkpoints import safe_checkpoints
    from mmhier.checkpoints import read_checkpoint

    class Line(BaseModel):

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, inputs, mode='tensor'):
            return dict(loss=(self.weight * inputs - 2).square().mean())

    def run(max_iters: int, resume: bool) -> Runner:
        runner = Runner(
            Line(), work_dir='resume', resume=resume, log_level='ERROR',
            experiment_name=f'doctor-{max_iters}',
            train_dataloader=dict(
                dataset=[dict(inputs=torch.ones(1))] * 8, batch_size=2,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='InfiniteSampler')),
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            default_hooks=dict(checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=2)))
        with safe_checkpoints():
            runner.train()
        return runner

    run(2, resume=False)
    saved = read_checkpoint('resume/iter_2.pth')
    runner = run(4, resume=True)
    assert runner.iter == 4 and saved['meta']['iter'] == 2
    moved = (runner.model.weight - saved['state_dict']['weight']).item()
    assert 0 < moved < 0.5, f'the weight moved by {moved} after resuming'
    return dict(state='ok', detail='saved after 2 iterations, went on to 4')


def _run_two_processes() -> dict:
    """Gradients of two processes are averaged."""
    import torch
    torch.multiprocessing.spawn(_average_gradients, nprocs=2)
    return dict(state='ok', detail='DDP of two processes over gloo')


def _average_gradients(rank: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    dist.init_process_group('gloo', init_method=f'file://{os.getcwd()}/gloo',
                            rank=rank, world_size=2)
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
        fixes = ['apt-get install -y g++'] if 'compiler' in str(error) else []
        return dict(state='note', detail=f'torch.compile: {line}',
                    fixes=fixes)
    assert torch.allclose(compiled, x.sin() + 1)
    return dict(state='ok', detail='torch.compile works')


def _run_cuda() -> dict:
    import shutil

    import torch
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            ones = torch.ones(8, 8, device=f'cuda:{i}')
            assert (ones @ ones).sum().item() == 512
        return dict(state='ok', detail=', '.join(
            torch.cuda.get_device_name(i)
            for i in range(torch.cuda.device_count())))
    if shutil.which('nvidia-smi') is None:
        return dict(state='ok', detail='no NVIDIA driver: runs on the CPU')
    built = torch.version.cuda
    why = (f'torch is built for CUDA {built}, which the driver does not take'
           if built else 'this torch is built without CUDA')
    return dict(state='FAIL', detail=f'a driver is there, but {why}',
                fixes=[f'{PIP} --force-reinstall '
                       f'torch=={TORCH["torch"]} '
                       f'torchvision=={TORCH["torchvision"]}'])


RUNS: Dict[str, Callable[[], dict]] = {
    'operator source': _run_operator_source,
    'operators': _run_operators,
    'training step': _run_training_step,
    'save and resume': _run_resume,
    'two processes': _run_two_processes,
    'bfloat16': _run_bf16,
    'compile': _run_compile,
    'CUDA': _run_cuda,
}
CHECKS = {
    **{f'import {module}': partial(_run_import, module) for module in MODULES},
    **RUNS
}

if __name__ == '__main__':
    sys.exit(main())
