"""Rules of the source: no patches, and a core that stands alone."""
import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from .conftest import ROOT

CORE = ('apis', 'checkpoints', 'datasets', 'engine', 'evaluation', 'export',
        'models', 'ops')
AROUND = ('analysis', 'cli', 'leaderboard', 'visualization')


def sources(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def find_patches(tree: ast.AST) -> Iterator[str]:
    """Places where attributes of other packages are assigned to."""
    foreign = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition('.')[0]
                if alias.name == 'unittest.mock':
                    yield f'line {node.lineno}: imports mock'
                if package != 'mmhier':
                    foreign.add(alias.asname or package)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {alias.name for alias in node.names}
            if node.module == 'unittest.mock' or (node.module == 'unittest'
                                                  and 'mock' in names):
                yield f'line {node.lineno}: imports mock'
            if node.module.partition('.')[0] != 'mmhier':
                foreign |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        changed = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            changed = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            changed = [node.target]
        elif isinstance(node, ast.Call) and isinstance(
                node.func, ast.Name) and node.func.id in ('setattr', 'delattr'):
            changed = [ast.Attribute(node.args[0], '')]
        elif isinstance(node, ast.Call) and isinstance(
                node.func, ast.Attribute) and node.func.attr in (
                    'update', 'pop', 'setdefault', '__setitem__'):
            changed = [ast.Subscript(node.func.value, ast.Constant(''))]
        for target in changed:
            for item in getattr(target, 'elts', [target]):
                if is_foreign(item, foreign):
                    yield f'line {node.lineno}: {ast.unparse(item)}'


def is_foreign(target: ast.AST, foreign: set[str]) -> bool:
    if isinstance(target, ast.Subscript):
        owner = target.value
        if isinstance(owner, ast.Call) and ast.unparse(owner.func) == 'vars':
            return ast.unparse(owner.args[0]) != 'self'
        return (isinstance(owner, ast.Attribute) and owner.attr == '__dict__'
                and ast.unparse(owner.value) != 'self')
    if not isinstance(target, ast.Attribute):
        return False
    while isinstance(target, ast.Attribute):
        target = target.value
    return isinstance(target, ast.Name) and target.id in foreign


@pytest.mark.parametrize('text', [
    'from unittest import mock',
    'import unittest.mock',
    'from mmdet.datasets import CocoDataset as C\nC.METAINFO = {}',
    'import torch\ntorch.backends.cudnn.benchmark = True',
    'import torch.nn as nn\nsetattr(nn.Conv2d, "forward", print)',
    'def f(loader):\n    vars(loader)["batch_sampler"] = None',
    'def f(loader):\n    loader.__dict__.update(a=1)',
])
def test_patches_are_found(text):
    assert len(list(find_patches(ast.parse(text)))) == 1


@pytest.mark.parametrize('text', [
    'from mmhier.engine import runner\nrunner.x = 1',
    'class A:\n    def f(self):\n        vars(self)["x"] = self.y = 1',
    'import os\nos.environ["A"] = "1"',
])
def test_what_is_no_patch(text):
    assert not list(find_patches(ast.parse(text)))


def test_nothing_is_patched():
    """But by mmhier.ops, whose import hook has no other way."""
    found = {
        str(path.relative_to(ROOT)):
        list(find_patches(ast.parse(path.read_text())))
        for path in sources('mmhier', 'tools') if 'ops' not in path.parts
    }
    assert not {path: places for path, places in found.items() if places}


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [node.module] if node.module else []
            if node.level:
                parts = [*package[:len(package) - node.level + 1], *parts]
            module = '.'.join(parts)
            yield from (f'{module}.{alias.name}' for alias in node.names)


def test_the_core_imports_nothing_around_it():
    """mmhier.registry names the record hooks as text alone."""
    paths = sources(*(f'mmhier/{name}' for name in CORE))
    assert len(paths) > 60
    paths += (ROOT / 'mmhier').glob('[!_]*.py')
    wrong = {(str(path.relative_to(ROOT / 'mmhier')), name.split('.')[1])
             for path in paths
             for name in imported_modules(path)
             if name.startswith('mmhier.') and name.split('.')[1] in AROUND}
    assert not wrong
