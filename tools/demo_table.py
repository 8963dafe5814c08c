"""Run the demo with several seeds and write the results to README.md.

The README gets the last lines of the first run and the average precision and
computing time of all; .github/demo.png gets its picture.

Example:
    python tools/demo_table.py
"""
import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from mmhier.errors import MMHierError, run_tool
from mmhier.files import replace_at_marks, write_text

ROOT = Path(__file__).parents[1]
START = '<!-- Measured by tools/demo_table.py. -->\n'
END = '<!-- End of the measurements. -->\n'
PAGE_WIDTH = 980  # of a page of GitHub, in pixels


def run_demo(seed: int, folder: Path) -> tuple[list[str], float]:
    """Lines of a demo's output, and its core-minutes with imports."""
    shutil.rmtree(folder, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([
        sys.executable, ROOT / 'tools' / 'demo.py', '--data-root',
        folder / 'data', '--work-dir', folder / 'run', '--cfg-options',
        f'randomness.seed={seed}'
    ],
                            stdout=subprocess.PIPE,
                            text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        raise MMHierError(f'the demo with seed {seed} ended with status '
                          f'{result.returncode}')
    seconds = (
        after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return result.stdout.splitlines(), seconds / 60


def describe(output: Sequence[str], rows: Sequence[tuple]) -> str:
    """Markdown of the end of a demo's output and of a row per seed."""
    from importlib.metadata import version

    from mmhier.leaderboard.run_facts import describe_environment
    shown = [line for line in output if ' took ' in line]
    end = next(i for i, line in enumerate(output) if line.startswith('segm '))
    shown += ['', *output[end - 2:end + 1]]
    lines = [
        '```', *shown, '```', '', '| seed | box AP | mask AP | core-minutes |',
        '| --- | --- | --- | --- |'
    ]
    lines += [
        f'| {seed} | {bbox:.3f} | {segm:.3f} | {cores:.1f} |'
        for seed, bbox, segm, cores in rows
    ]
    device = describe_environment().device
    lines += [
        '', f'Measured on {device}, torch {version("torch")}; core-minutes '
        'count all of a run on an empty folder.'
    ]
    return '\n'.join(lines) + '\n'


def replace_block(text: str, block: str) -> str:
    """Replace the block between the marks of a page."""
    return replace_at_marks(text, START, END, block, 'README.md')


def write_picture(sheet: Path, target: Path) -> None:
    """Write a sheet of pictures at the width of a page, in 256 colours."""
    picture = Image.open(sheet)
    height = PAGE_WIDTH * picture.height // picture.width
    picture.resize((PAGE_WIDTH, height)).quantize().save(target, optimize=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2], help='0 1 2')
    parser.add_argument(
        '--work-dir', default='work_dirs/demo_table', help='a folder for runs')
    args = parser.parse_args()
    folder = Path(args.work_dir)
    rows = []
    outputs = []
    for seed in args.seeds:
        output, cores = run_demo(seed, folder / str(seed))
        metrics = json.loads(
            (folder / str(seed) / 'run/result.json').read_text())
        rows.append((seed, metrics['bbox']['AP'], metrics['segm']['AP'], cores))
        outputs.append(output)
        print(*rows[-1], flush=True)
    page = ROOT / 'README.md'
    write_text(page, replace_block(page.read_text(), describe(outputs[0],
                                                              rows)))
    write_picture(folder / str(args.seeds[0]) / 'run/sheet.png',
                  ROOT / '.github/demo.png')


if __name__ == '__main__':
    run_tool(main)
