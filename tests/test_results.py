"""Records of lanes by `--record`, and figures of the demo."""
import os
from types import SimpleNamespace

import pytest
from mmhier.errors import MMHierError
from . import results
from .commands import load_tool

PAGE = f'# Page\n{results.START}\n{results.END}After.\n'


def report(name, outcome, when='call', duration=30.):
    return SimpleNamespace(
        nodeid=name, outcome=outcome, when=when, duration=duration)


@pytest.fixture
def stats():
    return {
        '': [report('a', 'passed', 'setup', 60.)],
        'passed': [report('a', 'passed')],
        'failed': [report('b', 'failed')],
        'deselected': [SimpleNamespace(nodeid='c')],
    }


def test_a_row_replaces_that_of_the_same_environment(stats, monkeypatch):
    monkeypatch.setattr(os, 'times', lambda: (70., 10., 35., 5., 1000.))
    row = results.lane_row('`make test`', stats)
    assert row[5:7] == ('1 passed, 1 failed', '2')
    other = ('`make test`', '3.10.1', *row[2:])
    page = results.add_row(results.add_row(PAGE, row), other)
    del stats['failed']
    row = results.lane_row('`make test`', stats)
    page = results.add_row(page, row)
    assert results.read_rows(page) == {
        cells[:results.NUM_KEYS]: cells
        for cells in (other, row)
    }
    assert page.startswith('# Page\n') and page.endswith('After.\n')


def test_the_zoo_page_lists_every_test_the_dearest_first(stats):
    row = results.lane_row('`make test-zoo`', stats)
    lines = results.zoo_page(row, results.durations(stats)).splitlines()
    assert lines[-2:] == ['| `a` | passed | 90.0 |', '| `b` | failed | 30.0 |']


def test_the_demos_figures():
    tool = load_tool('tools/demo_table.py')
    output = [
        'Training took 3 min 1 s, 5.5 core-minutes.', 'Iter', '   AP  AP50',
        'bbox  0.6  0.8', 'segm  0.5  0.7', ''
    ]
    block = tool.describe(output, [(0, .6, .5, 6.04), (1, .61, .52, 6.1)])
    assert block.startswith('```\n' +
                            '\n'.join([output[0], '', *output[2:5], '```']))
    assert '| 0 | 0.600 | 0.500 | 6.0 |\n| 1 | 0.610 |' in block
    page = tool.replace_block(f'Head\n{tool.START}old\n{tool.END}Tail\n', block)
    assert page == f'Head\n{tool.START}\n{block}\n{tool.END}Tail\n'
    with pytest.raises(MMHierError, match='lacks the marks'):
        tool.replace_block('# Page\n', block)
