"""Check mmhier on a GPU: ``python -m tests.gpu``.

Writes results.md and results.json: correctness first, then speed. Each part
is a process of its own, so that a failure ends that part alone. Without a GPU
``--device cpu --dry`` runs every part on small models.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from .rows import ROOT, Rows, as_markdown

# Seconds that each part may take, in order.
PARTS = {
    'environment': 60,
    'operators': 60,
    'limits': 30,
    'backbones': 150,
    'precision': 120,
    'determinism': 100,
    'resuming': 200,
    'waits': 60,
    'compiling': 240,
    'backbone_speed': 200,
    'detector_speed': 120,
    'kernel_speed': 90,
    'compiled_speed': 300,
}


def run_part(arguments: argparse.Namespace) -> None:
    """Run a part in this process; its rows go to a file as they come."""
    import torch
    from . import correctness, speed
    path = Path(arguments.out, f'{arguments.part}.json')
    rows = Rows(arguments.part, arguments.device, arguments.dry,
                lambda found: path.write_text(json.dumps(found)))
    torch.manual_seed(0)
    module = speed
    if not arguments.part.endswith('_speed'):
        module = correctness
        torch.set_float32_matmul_precision('highest')
        torch.backends.cudnn.allow_tf32 = False
    with rows.case('the part'):
        getattr(module, f'check_{arguments.part}')(rows)


def run_process(part: str, arguments: argparse.Namespace,
                seconds: float) -> list[dict]:
    """Rows of a part, run in a process of its own."""
    out = Path(arguments.out)
    command = [
        sys.executable, '-W', 'ignore', '-m', 'tests.gpu', '--part', part,
        '--device', arguments.device, '--out', arguments.out
    ] + ['--dry'] * arguments.dry
    environment = dict(os.environ, CUBLAS_WORKSPACE_CONFIG=':4096:8')
    with open(out / f'{part}.log', 'w') as log:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            code = 'out of time'
    path = out / f'{part}.json'
    rows = json.loads(path.read_text()) if path.exists() else []
    if code != 0:
        tail = (out / f'{part}.log').read_text()[-500:]
        rows.append(
            dict(part=part, what='the part', ok=False, error=f'{code}: {tail}'))
    for name in (path, out / f'{part}.log'):
        name.unlink(missing_ok=True)
    return rows


def main() -> int:
    """Return 1 if anything failed."""
    parser = argparse.ArgumentParser(
        prog='python -m tests.gpu', description=__doc__)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--part', choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--out', default='gpu_results', help='a folder')
    parser.add_argument(
        '--budget', type=float, default=1800, help='seconds for all parts')
    parser.add_argument(
        '--dry', action='store_true', help='small models and images')
    arguments = parser.parse_args()
    arguments.out = os.path.abspath(arguments.out)
    if arguments.part:
        run_part(arguments)
        return 0
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    start, rows = time.time(), []
    for part in arguments.parts:
        left = arguments.budget - (time.time() - start)
        if left < 5:
            rows.append(
                dict(part=part, what='the part', ok=False, error='no time'))
            continue
        limit = left if arguments.dry else min(left, PARTS[part])
        rows += run_process(part, arguments, limit)
        failed = sum(row['ok'] is False for row in rows)
        summary = (f'{arguments.device}, {time.time() - start:.0f} s, '
                   f'{len(rows)} rows, {failed} failed')
        print(f'{part}: {summary}', flush=True)
        Path(arguments.out,
             'results.json').write_text(json.dumps(rows, indent=1))
        Path(arguments.out, 'results.md').write_text(as_markdown(rows, summary))
    return int(any(row['ok'] is False for row in rows))


if __name__ == '__main__':
    sys.exit(main())
