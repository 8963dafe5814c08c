"""The dry run: what it finds in good, bad and random configs."""
import importlib.util
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmhier.apis import check_config
from .conftest import CONFIGS, DETECTOR
from .test_resume import ROOTS, write_config

TOOL = Path(__file__).parents[2] / 'tools' / 'check.py'

def messages(findings, level: str) -> dict:
    return {f.subject: f.message for f in findings if f.level == level}


@pytest.fixture
def detector(coco_root):
    """Check the slim Mask R-CNN with options."""

    def check(checkpoint=None, num_gpus=1, every_file=False, **cfg_options):
        options = {k.replace('__', '.'): v for k, v in cfg_options.items()}
        return check_config(
            DETECTOR, data_root=str(coco_root), checkpoint=checkpoint,
            num_gpus=num_gpus, every_file=every_file, cfg_options=options)

    return check


def test_sound_detector(detector):
    findings = detector(num_gpus=8)
    assert not messages(findings, 'error') | messages(findings, 'warning')
    notes = messages(findings, 'note')
    assert '5 images, 3 classes' in notes['train data']
    assert '6 images, 3 classes, 1 images without a label' in notes['val data']
    assert '96x64' in notes['val data']
    assert 'loss' in notes['float32 step'] and 'loss' in notes['bfloat16 step']
    assert notes['prediction'] == '1 images predicted'
    assert 'for all 3 iterations' in notes['time']


def test_worst_comes_first(detector):
    levels = [f.level for f in detector(model__backbone__arch='giant')]
    assert levels[0] == 'error' and levels == sorted(
        levels, key=['error', 'warning', 'note'].index)


def test_learning_rate_of_another_batch(detector):
    # Two images on each of 4 processes, where 8 were meant.
    warnings = messages(detector(num_gpus=4), 'warning')
    assert '0.0001 is meant for batches of 16, yours hold 8' in warnings[
        'learning rate']
    assert '--auto-scale-lr, which makes it 5e-05' in warnings['learning rate']


def test_parameters_that_the_loss_does_not_reach(detector):
    findings = detector(model__rpn_head__loss_cls__loss_weight=0.)
    dead = messages(findings, 'warning')['dead parameters']
    assert re.match(r'\d tensors had only zeros as gradient', dead)


def test_unused_parameters_of_a_segmentor(masks_root):
    # The head reads the first map alone.
    findings = check_config(
        str(CONFIGS / 'segmentor.py'), data_root=str(masks_root))
    unused = messages(findings, 'error')['unused parameters']
    assert 'tensors get no gradient, such as backbone.blocks.1' in unused


def test_loss_that_is_not_finite(detector):
    findings = detector(model__rpn_head__loss_bbox__loss_weight=float('nan'))
    assert 'not finite: ' in messages(findings, 'error')['float32 step']
    assert 'rpn_bbox' in messages(findings, 'error')['float32 step']


def test_file_that_is_no_image(detector, coco_root):
    path = coco_root / 'train2017' / '004.jpg'
    content = path.read_bytes()
    path.write_bytes(b'no image')
    try:
        findings = detector()
    finally:
        path.write_bytes(content)
    errors = messages(findings, 'error')
    assert '1 images cannot be read, such as ' in errors['train data']
    assert '004.jpg' in errors['train data']


def test_checkpoint_of_this_and_of_another_model(detector, detector_run,
                                                 tmp_path):
    checkpoint = Path(detector_run.work_dir) / 'epoch_1.pth'
    fitting = messages(detector(checkpoint=str(checkpoint)), 'note')
    assert re.search(r'epoch_1.pth: (\d+) of \1 keys matched',
                     fitting['checkpoint'])
    other = messages(
        detector(checkpoint=str(checkpoint), model__neck__out_channels=32),
        'error')
    assert set(other) >= {'model'} or 'does not fit' in other['checkpoint']


def test_config_of_openmmlab_2(tmp_path):
    path = tmp_path / 'old.py'
    path.write_text("optimizer = dict(type='SGD')\ndata = dict()")
    (finding, ) = check_config(str(path))
    assert (finding.level, finding.subject) == ('error', 'config')
    assert 'written for OpenMMLab 2.x' in finding.message


def test_error_of_another_package_becomes_a_finding(detector):
    errors = messages(
        detector(model__data_preprocessor__mean='black'), 'error')
    assert errors['model'].count('\n') == 0
    assert re.search(r'raised in .*\.py, line \d+', errors['model'])


def test_tool(coco_root):
    command = [sys.executable, TOOL, DETECTOR, '--data-root', coco_root]
    done = subprocess.run([*command, '--num-gpus', '8'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith('NOTE     train data: ')
    assert done.stdout.endswith('0 errors, 0 warnings\n')
    done = subprocess.run(
        [*command, '--cfg-options', 'model.backbone.arch=giant'],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith('ERROR    model: ')
    assert 'giant' in done.stdout and 'Traceback' not in done.stderr


def _edit(rng: random.Random, node) -> str:
    """Drop a key of a config or change its type; say which."""
    path = []
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = rng.choice(list(keys))
        path.append(str(key))
        child = node[key]
        if isinstance(child, (dict, list)) and child and rng.random() < 0.8:
            node = child
            continue
        if rng.random() < 0.3:
            del node[key]
            return f'without {".".join(path)}'
        value = rng.choice(
            [None, -1, 0, 3, 2.5, True, '', 'nonsense', [], [1, 'a'], {},
             {'type': 'Nonsense'}, float('nan')])
        node[key] = ConfigDict(value) if isinstance(value, dict) else value
        return f'{".".join(path)}={value!r}'


@pytest.mark.parametrize('seed', range(20))
def test_random_edits_never_end_in_a_traceback(seed, request, tmp_path,
                                               monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('check', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    rng = random.Random(seed)
    for i in range(25):
        kind = rng.choice(list(ROOTS))
        cfg = Config.fromfile(
            write_config(kind, tmp_path / 'sound.py'))
        edit = _edit(rng, cfg._cfg_dict)
        path = tmp_path / f'{i}.py'
        path.write_text(cfg.pretty_text)
        data_root = str(request.getfixturevalue(ROOTS[kind]))
        monkeypatch.setattr(
            sys, 'argv', ['check.py', str(path), '--data-root', data_root])
        with pytest.raises(SystemExit) as end:
            tool.main()
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r'\d+ errors, \d+ warnings', lines[-1]), edit
        assert end.value.code == int(not lines[-1].startswith('0 errors'))
        for line in lines[:-2]:
            assert line.startswith(('ERROR', 'WARNING', 'NOTE')), edit
