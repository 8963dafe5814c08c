"""The table of stock configs in docs/plug_in.md.

``python -m tests.test_plugging.table [PART ...]`` runs the configs whose names
hold one of the parts, all by default, and writes the table.
"""
import sys
import traceback
from pathlib import Path

import torch
from mmhier.files import split_at_marks
from .plugging import CONFIGS, REASONS, try_stock_config

PAGE = Path(__file__).parents[2] / 'docs' / 'plug_in.md'
BEGIN = '<!-- Written by python -m tests.test_plugging.table -->\n'
END = '<!-- End of the table -->\n'


def read_keys() -> dict[str, str]:
    """Keys that the table shows, by config."""
    _, text, _ = split_at_marks(PAGE.read_text(), BEGIN, END, PAGE)
    cells = [line.strip('| ').split(' | ') for line in text.splitlines()]
    return {
        name.strip('`'): keys
        for name, keys in (row for row in cells if len(row) == 2)
        if name.strip('`') in CONFIGS
    }


def show_keys(keys: list[str]) -> str:
    """Keys as a cell of the table."""
    return ', '.join(f'`{key}`' for key in keys) or 'none'


def write_table(keys: dict[str, str]) -> str:
    """The table, of the configs that have keys."""
    lines = ['| stock config | set for `mmhier.HATNet` |', '|---|---|']
    lines += [
        f'| `{name}` | {keys[name]} |' for name in CONFIGS if name in keys
    ]
    lines += ['', '| folder | takes no other backbone, since it |', '|---|---|']
    lines += [f'| `{name}` | {reason} |' for name, reason in REASONS.items()]
    return '\n'.join(['', *lines, '']) + '\n'


def main(parts: list[str]) -> None:
    """Run the configs and write the table."""
    torch.set_num_threads(1)
    for name in CONFIGS:
        if parts and not any(part in name for part in parts):
            continue
        try:
            found = {name: show_keys(try_stock_config(name))}
        except Exception:
            traceback.print_exc()
            found = {}
        keys = {key: value for key, value in read_keys().items() if key != name}
        keys |= found
        print(f'{name}: {found.get(name, "fails")}', flush=True)
        before, _, after = split_at_marks(PAGE.read_text(), BEGIN, END, PAGE)
        PAGE.write_text(before + BEGIN + write_table(keys) + END + after)


if __name__ == '__main__':
    main(sys.argv[1:])
