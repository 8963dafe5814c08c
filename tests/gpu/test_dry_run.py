"""The checks for a GPU run, on small models and a CPU."""
import json
import subprocess
import sys

import pytest
from .__main__ import PARTS
from .rows import ROOT, Rows, as_markdown


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    command = [sys.executable, '-m', 'tests.gpu', '--device', 'cpu', '--dry']
    done = subprocess.run([*command, '--out', tmp_path],
                          cwd=ROOT,
                          capture_output=True,
                          text=True)
    rows = json.loads((tmp_path / 'results.json').read_text())
    assert not [row for row in rows if row['ok'] is False]
    assert {row['part'] for row in rows} == set(PARTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(
        p.name for p in tmp_path.iterdir()) == ['results.json', 'results.md']


def test_errors_become_failed_rows():
    saved = []
    rows = Rows('part', 'cpu', True, saved.append)
    rows.add('good', True, ms=1.2345678)
    with rows.case('bad'):
        raise ValueError('a | b')
    assert saved[-1] is rows.rows
    good, bad = rows.rows
    assert good == dict(part='part', what='good', ok=True, ms=1.2346)
    assert bad['ok'] is False and bad['error'] == 'ValueError: a | b'
    page = as_markdown(rows.rows, 'summary')
    assert '## part: 2 rows, 1 failed' in page
    assert '| yes | good | 1.2346 |  |  |' in page
    assert '| **no** | bad |  | ValueError: a / b | test_dry_run.py:' in page
