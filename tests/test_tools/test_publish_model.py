"""tools/publish_model.py, and what it wrote in the other tools."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmhier import apis
from mmhier.checkpoints import publish_checkpoint_file
from .conftest import DETECTOR

TOOL = Path(__file__).parents[2] / 'tools' / 'publish_model.py'


def call(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *(str(a) for a in arguments)],
                          capture_output=True,
                          text=True,
                          timeout=300,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


def test_command_line(detector_run, tmp_path):
    source = Path(detector_run.work_dir) / 'epoch_1.pth'
    done = call(source, tmp_path / 'detector.pth')
    assert done.returncode == 0, done.stderr
    published, = tmp_path.iterdir()
    assert published.match('detector-????????.pth')
    assert f'wrote {published}: ' in done.stdout
    # The optimizer keeps two numbers for each weight.
    assert published.stat().st_size < source.stat().st_size / 2

    refused = call(source, tmp_path / 'detector.pth')
    assert refused.returncode == 2
    assert refused.stderr == (
        f'error: {published} exists: choose another name, or replace it with '
        '--overwrite\n')


def test_published_models_are_tested_by_their_bare_name(detector_run, coco_root,
                                                        tmp_path, monkeypatch):
    source = Path(detector_run.work_dir) / 'epoch_1.pth'
    published = publish_checkpoint_file(source, tmp_path / 'w' / 'model.pth')
    arguments = dict(data_root=str(coco_root), work_dir=str(tmp_path / 'work'))
    with pytest.raises(apis.MMHierError, match='model.pth does not exist$'):
        apis.test(DETECTOR, 'model.pth', **arguments)
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path / 'w'))
    expected = apis.test(DETECTOR, str(source), **arguments)
    assert apis.test(DETECTOR, 'model.pth', **arguments) == expected

    options = {'load_from': 'https://example.org/model.pth'}
    runner = apis.train(
        DETECTOR, no_validate=True, cfg_options=options, **arguments)
    assert runner.cfg.load_from == str(published)

    published.write_bytes(source.read_bytes())
    with pytest.raises(
            apis.MMHierError, match=f'{published.name}.*expected a sha256'):
        apis.test(DETECTOR, 'model.pth', **arguments)
