"""The table of exports: complete, within the tolerance, and how it is kept."""
import importlib.util
import shutil
import subprocess
import sys

import pytest
from mmhier.apis import MMHierError
from mmhier.export.checking import TOLERANCE
from mmhier.export.exporting import SUFFIXES
from ..config_zoo import ROOT, VARIANTS
from .test_export import CONFIG

pytest.importorskip('onnxruntime')


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool, with a page of its own."""
    spec = importlib.util.spec_from_file_location(
        'export_table', ROOT / 'tools' / 'export_table.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copy(module.PAGE, tmp_path / 'export.md')
    monkeypatch.setattr(module, 'PAGE', tmp_path / 'export.md')
    return module


@pytest.fixture
def errors(tool, monkeypatch):
    """Differences that exports seem to have, by part of the config's name."""
    errors = {}

    def measure(config, part):
        for format in SUFFIXES:
            found = [e for name, e in errors.items() if name in config]
            yield format, '1.0', '4', '9', found[0] if found else '1.0e-06'

    monkeypatch.setattr(tool, 'measure', measure)
    return errors


def test_all_of_them_were_measured_and_are_equal(tool):
    rows = tool.read_rows(tool.PAGE.read_text())
    assert set(rows) == {(name, part, format)
                         for name, (_, part) in tool.list_exports().items()
                         for format in SUFFIXES}
    assert all(float(row[-1]) <= TOLERANCE for row in rows.values())


def test_rows_are_every_variant_and_the_smallest_as_whole_models(tool):
    exports = tool.list_exports()
    assert [name for name, (_, part) in exports.items()
            if part == 'backbone'] == VARIANTS
    whole = [name for name, (_, part) in exports.items() if part == 'model']
    assert len(whole) == 20
    assert {name.split('_')[1]
            for name in whole if name[:3] == 'upe'} == {
                'hatnet-tiny', 'lit-tiny', 'litv2-small', 'hvt-ti-1',
                'accvit-femto'
            }
    for config, _ in exports.values():
        assert (ROOT / config).is_file()


def test_rows_that_are_not_named_stay(tool, errors, capsys):
    tool.main([])
    before = tool.read_rows(tool.PAGE.read_text())
    assert list(before) == [(name, part, format)
                            for name, (_, part) in tool.list_exports().items()
                            for format in SUFFIXES]
    text = tool.PAGE.read_text()
    errors['lit-base'] = '5.0e-05'
    tool.main(['lit-base'])
    after = tool.read_rows(tool.PAGE.read_text())
    assert list(after) == list(before)
    assert {key
            for key in after
            if after[key] != before[key]} == {('lit-base', 'backbone', format)
                                              for format in SUFFIXES}
    assert 'lit-base backbone onnx 1.0 4 9 5.0e-05' in capsys.readouterr().out
    errors['lit-base'] = '1.0e-06'
    tool.main(['lit-base'])
    assert tool.PAGE.read_text() == text
    assert not list(tool.PAGE.parent.glob('.*'))


def test_an_export_that_differs_ends_with_1(tool, errors, capsys):
    errors['hvt-s-2'] = '2.0e-04'
    with pytest.raises(SystemExit) as end:
        tool.main([])
    assert end.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        'NOT EQUAL: hvt-s-2 (onnx), hvt-s-2 (torch)')


def test_mistakes_are_named(tool, errors, monkeypatch):
    with pytest.raises(MMHierError, match='lit-giant is no row of the table'):
        tool.main(['lit-giant'])
    tool.main([])
    monkeypatch.setattr(tool, 'describe_conditions', lambda: 'Elsewhere.\n')
    with pytest.raises(MMHierError, match='measured under other conditions'):
        tool.main(['lit-base'])
    tool.PAGE.write_text('# Export\n')
    with pytest.raises(MMHierError, match='lacks the marks of the table'):
        tool.main([])


@pytest.mark.slow
def test_a_measured_row(tool, tmp_path):
    (tmp_path / 'config.py').write_text(CONFIG)
    onnx, program = tool.measure(str(tmp_path / 'config.py'), 'backbone')
    assert (onnx[0], program[0]) == ('onnx', 'torch')
    assert 0 < float(onnx[-1]) < TOLERANCE
    assert 0 < float(onnx[1]) == float(program[1]) < 1


def test_a_good_and_a_bad_call(tool):
    command = [sys.executable, ROOT / 'tools' / 'export_table.py']
    listed = subprocess.run([*command, '--list'],
                            text=True,
                            capture_output=True)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines()[-len(VARIANTS) - 20:] == list(
        tool.list_exports())
    ended = subprocess.run([*command, 'lit-giant'],
                           text=True,
                           capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        'error: lit-giant is no row of the table: --list prints their names')
    assert 'Traceback' not in ended.stderr
