"""Settings of the linters that `make lint` runs."""
import pytest
import yaml
from .conftest import ROOT, run_module


def test_settings_refuse_unused_imports_and_long_lines(tmp_path):
    path = tmp_path / 'module.py'
    path.write_text(f'import os\n\nNAME = {"x" * 80!r}\n')
    result = run_module('ruff', 'check', '--no-cache', '--config',
                        'pyproject.toml', str(path))
    assert result.returncode == 1
    assert 'F401' in result.stdout and 'E501' in result.stdout


def test_pre_commit_runs_the_pinned_version():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    revision, = (r['rev'] for r in hooks['repos'] if 'ruff' in r['repo'])
    version = run_module('ruff', 'version').stdout.split()[1]
    pins = (ROOT / 'requirements/tests.txt').read_text().split()
    assert revision == f'v{version}' and f'ruff=={version}' in pins


@pytest.mark.slow
@pytest.mark.parametrize('function', [
    'def f(a, b: int) -> int:\n    return b\n',
    'def f(a):\n    return a\n',
])
def test_settings_refuse_functions_without_types(tmp_path, function):
    path = tmp_path / 'module.py'
    path.write_text(function)
    result = run_module('mypy', '--cache-dir', str(tmp_path), '--config-file',
                        str(ROOT / 'pyproject.toml'), str(path))
    assert result.returncode == 1
    assert 'missing a type annotation' in result.stdout
