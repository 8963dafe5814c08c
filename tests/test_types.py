import pytest
from .conftest import ROOT, run_module


def test_types_of_the_package(tmp_path):
    result = run_module('mypy', '--cache-dir', str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


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
