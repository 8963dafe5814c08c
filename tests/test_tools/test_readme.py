"""README.md and the families' pages: their commands and configs."""
import re
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmhier import zoo
from mmhier.checkpoints import official_weights, resolve_checkpoint
from mmhier.cli.demo import LOWEST_AP
from mmhier.registry import MODELS
from .. import results
from ..golden import official_state_dict
from .pages import (
    ROOT,
    SLIM_NAME,
    Shell,
    blocks,
    commands,
    write_slim_checkout,
)

# The variant of each page's classifier, or another one whose official names
# are at hand.
FAMILIES = dict(
    hatnet='hatnet_tiny',
    lit='lit_small_cls',
    litv2='litv2_s_cls',
    hvt='hvt_s_2')


def test_commands(tmp_path, coco_root, monkeypatch, capfd, no_network):
    write_slim_checkout(tmp_path, coco_root)
    shell = Shell(tmp_path, monkeypatch)
    monkeypatch.setattr(zoo, 'zoo_root', lambda: tmp_path)
    printed = ''
    for command in commands('README.md'):
        if 'lit-small' in command:
            shell.run_official(command)
        else:
            shell.run(command)
        printed += capfd.readouterr().out
    demo, tests, *_ = shell.made
    assert demo.splitlines()[-1] == '.venv/bin/python tools/demo.py'
    assert '-m pytest' in tests
    assert printed.count('Average Precision') >= 12
    assert SLIM_NAME in printed
    (job, received), = shell.started
    assert job['nproc_per_node'] == '8'
    assert Path(received['config']).stem == SLIM_NAME


def test_backbone(capsys):
    code, _ = blocks('README.md', 'python')
    exec(code, {})
    printed = capsys.readouterr().out.strip()
    assert f'# {printed}' in code


def test_config(tmp_path):
    base = Path(mmdet.__file__).parent / (
        '.mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    _, code = blocks('README.md', 'python')
    (tmp_path / 'config.py').write_text(f'_base_ = {str(base)!r}\n{code}')
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.neck.in_channels == list(model.backbone.out_channels)


def test_tested_versions_passed_and_are_those_that_make_installs():
    rows = results.read_rows((ROOT / 'README.md').read_text())
    installed = {
        tuple(
            re.search(rf'^{package}==(\S+)$', path.read_text(), re.M)[1]
            for package in ('torch', '(?:onedl-mmdetection|mmdet)', 'numpy'))
        for path in (ROOT / 'requirements').glob('*.txt')
        if 'torch==' in path.read_text()
    }
    if not rows:
        pytest.skip('README.md has no rows: run `make test RECORD=1`')
    for (_, _, torch_version, line, numpy, outcome, *_) in rows.values():
        assert (torch_version, line.split()[-1], numpy) in installed
        assert 'passed' in outcome
        assert 'failed' not in outcome and 'error' not in outcome


def test_the_demo_keeps_its_promise():
    page = (ROOT / 'README.md').read_text()
    rows = re.findall(r'^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$',
                      page, re.M)
    if not rows:
        pytest.skip('README.md has no figures: run `make test-demo`')
    assert len(rows) >= 3
    for _, bbox, segm, core_minutes in rows:
        assert float(bbox) >= LOWEST_AP['bbox']
        assert float(segm) >= LOWEST_AP['segm']
        assert float(core_minutes) <= 8


@pytest.mark.parametrize('family', FAMILIES)
def test_weights_of_a_family(family, tmp_path, monkeypatch, weights_server):
    shell = Shell(tmp_path, monkeypatch)
    fetched, *others = (
        re.sub('(hvt.s.)1', r'\g<1>2', command)
        for command in commands(f'configs/{family}/README.md'))
    name = fetched.split()[-1]
    weights_server.put(official_weights()[name].file_name,
                       official_state_dict(FAMILIES[family]))
    shell.run(fetched)
    assert Path(resolve_checkpoint(name)).is_file()
    for command in others:
        shell.run_official(command)
