"""Write the table of simulated passes: ``python -m
tests.test_cuda_simulation.table``.

It goes to docs/speed/cuda_simulation.csv and, between two marks, into
docs/speed.md; ``--page`` copies the file into the page alone. Each row is a
forward and backward pass of a backbone under bfloat16, of two images of
800x1344, by :mod:`.simulation`.
"""
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mmhier.analysis.variants import PEERS
from mmhier.files import split_at_marks
from mmhier.models import backbones

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CSV = ROOT / 'docs/speed/cuda_simulation.csv'
PAGE = ROOT / 'docs/speed.md'
START, END = '<!-- cuda simulation -->', '<!-- end -->'
INTRODUCTION = '''\
Simulated, not measured: torch's dispatch, autocast and autograd on tensors
without storage, two images of 800x1344 under bfloat16 (inference: one pass
without gradients). Time is that of an H100 by bytes moved, FLOPs or launch,
whichever takes longest for each call; a real GPU also waits for launches.
`python -m tests.test_cuda_simulation.table` writes it.
'''


def compile_runtime(folder: Path) -> Path:
    """Library in the place of CUDA's runtime and driver.

    Args:
        folder (Path): For the library.

    Raises:
        RuntimeError: If there is no compiler.
    """
    compiler = shutil.which('c++') or shutil.which('g++')
    if compiler is None or sys.platform != 'linux':
        raise RuntimeError('needs Linux and a C++ compiler')
    path = folder / 'libcuda.so.1'
    subprocess.run([
        compiler, '-std=c++17', '-shared', '-fPIC', f'-Wl,-soname,{path.name}',
        '-o', path, FOLDER / 'runtime.cpp'
    ],
                   check=True)
    return path


def run(runtime: Path, cases: list[dict]) -> list[dict]:
    """Results of :mod:`.simulation` for its cases.

    Args:
        runtime (Path): Of :func:`compile_runtime`.
        cases (list[dict]): See :mod:`.simulation`.

    Raises:
        RuntimeError: If a simulation fails.
    """
    process = subprocess.run(
        [
            sys.executable, '-W', 'ignore', '-m',
            'tests.test_cuda_simulation.simulation', *map(json.dumps, cases)
        ],
        cwd=ROOT,
        env={
            **os.environ, 'LD_PRELOAD': str(runtime),
            'LD_LIBRARY_PATH': str(runtime.parent),
            'PYTHONPATH': str(ROOT),
            'PYTORCH_JIT': '0',
            'OMP_NUM_THREADS': '1'
        },
        capture_output=True,
        text=True)
    if process.returncode != 0:
        raise RuntimeError(process.stderr[-2000:])
    # mmengine logs to the same stream.
    return [
        json.loads(line) for line in process.stdout.splitlines()
        if line.startswith('{')
    ]


def as_row(family: str, arch: str, training: dict, inference: dict) -> dict:
    """A row of the table.

    Args:
        family (str): As given to :mod:`.simulation`.
        arch (str): As given to :mod:`.simulation`.
        training (dict): Result of a forward and backward pass.
        inference (dict): Result of a pass without gradients.
    """
    calls, milliseconds = training['calls'], training['milliseconds']
    return {
        'backbone': arch if family == 'peer' else f'{family} {arch}',
        'M parameters': f'{training["parameters"] / 1e6:.1f}',
        'calls forward': str(calls['forward']),
        'calls backward': str(calls['backward']),
        'ms forward': f'{milliseconds["forward"]:.1f}',
        'ms backward': f'{milliseconds["backward"]:.1f}',
        'saved GiB': f'{training["saved"] / 1024:.2f}',
        'inference ms': f'{inference["milliseconds"]["forward"]:.1f}',
        'inference peak MiB': f'{inference["peak"]:.0f}',
    }


def read() -> list[dict]:
    """Rows of the CSV file."""
    with CSV.open(newline='') as file:
        return list(csv.DictReader(file))


def as_markdown(rows: list[dict]) -> str:
    """The block of docs/speed.md, marks included."""
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(r.values() for r in rows)]
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    return f'{START}\n{INTRODUCTION}\n{table}\n{END}'


def simulate_all() -> list[dict]:
    """A row for each variant of mmhier and each peer."""
    variants = [(name, arch) for name in backbones.__all__
                for arch in getattr(backbones, name).arch_zoo]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runtime = compile_runtime(Path(folder))
        for family, arch in [*variants, *(('peer', name) for name in PEERS)]:
            case = dict(family=family, arch=arch, dtype='bfloat16')
            results = run(runtime, [case, dict(case, training=False)])
            rows.append(as_row(family, arch, *results))
            print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    if sys.argv[1:] != ['--page']:
        rows = simulate_all()
        CSV.parent.mkdir(exist_ok=True)
        with CSV.open('w', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
    before, _, after = split_at_marks(PAGE.read_text(), START, END, PAGE)
    PAGE.write_text(before + as_markdown(read()) + after)


if __name__ == '__main__':
    main()
