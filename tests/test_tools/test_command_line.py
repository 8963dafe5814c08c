"""The tools as commands, in processes of their own."""
import importlib.util
import inspect
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmhier import apis
from .conftest import DETECTOR

TOOLS = Path(__file__).parents[2] / 'tools'


def call(*command) -> subprocess.CompletedProcess:
    environment = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1')
    environment.pop('RANK', None)
    return subprocess.run([str(part) for part in command],
                          capture_output=True,
                          text=True,
                          timeout=600,
                          env=environment)


@pytest.mark.parametrize('name', ['train', 'test'])
def test_arguments_are_those_of_the_library(name, monkeypatch):
    """Each argument reaches the function of the same name."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    received = {}
    monkeypatch.setattr(tool, name, lambda **kwargs: received.update(kwargs))
    checkpoint = ['best.pth'] if name == 'test' else []
    monkeypatch.setattr(sys, 'argv', [
        name, 'config.py', *checkpoint, '--cfg-options', 'a.b=[1,2]', 'c=x',
        '--local-rank', '0'
    ])
    tool.main()
    signature = inspect.signature(getattr(apis, name))
    assert set(received) == set(signature.parameters)
    assert received['cfg_options'] == {'a.b': [1, 2], 'c': 'x'}
    for key, parameter in signature.parameters.items():
        if parameter.default is not parameter.empty and key != 'cfg_options':
            assert received[key] == parameter.default, key


@pytest.mark.parametrize('argv, expected', [([], None), (['--resume'], 'auto'),
                                            (['--resume', 'a.pth'], 'a.pth')])
def test_resume_takes_a_path_or_none(argv, expected, monkeypatch):
    spec = importlib.util.spec_from_file_location('train', TOOLS / 'train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    received = {}
    monkeypatch.setattr(tool, 'train', lambda **kwargs: received.update(kwargs))
    monkeypatch.setattr(sys, 'argv', ['train', 'config.py', *argv])
    tool.main()
    assert received['resume'] == expected


def test_train_and_test(coco_root, tmp_path):
    work_dir = tmp_path / 'work'
    common = ['--data-root', coco_root, '--work-dir', work_dir]
    trained = call(sys.executable, TOOLS / 'train.py', DETECTOR, *common,
                   '--cfg-options', 'default_hooks.logger.interval=1')
    assert trained.returncode == 0, trained.stderr
    assert 'eta: ' in trained.stdout and 'mmcv operators: ' in trained.stdout

    checkpoint = work_dir / 'epoch_1.pth'
    tested = call(sys.executable, TOOLS / 'test.py', DETECTOR, checkpoint,
                  *common)
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count('Average Precision') == 12
    assert tested.stdout.count('Average Recall') == 12


def test_a_mistake_ends_with_one_line(tmp_path):
    ended = call(sys.executable, TOOLS / 'train.py', DETECTOR, '--work-dir',
                 tmp_path, '--data-root', tmp_path / 'absent')
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        f'error: train_dataloader.dataset.data_root={tmp_path}/absent is not')
    assert 'Traceback' not in ended.stderr


def test_malformed_option():
    ended = call(sys.executable, TOOLS / 'train.py', DETECTOR, '--cfg-options',
                 'train_cfg.max_epochs')
    assert ended.returncode == 2
    assert '--cfg-options: expected KEY=VALUE' in ended.stderr
    assert 'Traceback' not in ended.stderr


def test_distributed(coco_root, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        monkeypatch.setenv('PORT', str(probe.getsockname()[1]))
    common = ['--data-root', coco_root, '--work-dir', tmp_path]
    trained = call('bash', TOOLS / 'dist_train.sh', DETECTOR, 2, *common,
                   '--no-validate')
    assert trained.returncode == 0, trained.stderr
    assert 'Distributed launcher: pytorch' in trained.stdout
    assert 'GPU number: 2' in trained.stdout
    # Five images do not divide by two: none is lost, none counted twice.
    five = {'test_dataloader.dataset.indices': 5}
    tested = call('bash', TOOLS / 'dist_test.sh', DETECTOR,
                  tmp_path / 'epoch_1.pth', 2, *common, '--out',
                  tmp_path / 'two.pkl', '--cfg-options',
                  *(f'{key}={value}' for key, value in five.items()))
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.count('Average Precision') == 12
    apis.test(
        DETECTOR,
        str(tmp_path / 'epoch_1.pth'),
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        out=str(tmp_path / 'one.pkl'),
        cfg_options=five)
    one, two = (
        pickle.loads((tmp_path / f'{name}.pkl').read_bytes())
        for name in ('one', 'two'))
    assert [p['img_id'] for p in two] == [1, 2, 3, 4, 5]
    for alone, together in zip(one, two):
        alone, together = alone['pred_instances'], together['pred_instances']
        assert alone['masks'] == together['masks']
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(alone[key], together[key])


@pytest.mark.parametrize('name, argument', [('train', 'run'),
                                            ('test', 'epoch_1.pth')])
def test_slurm(name, argument, tmp_path, monkeypatch):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('GPUS', '4')
    monkeypatch.setenv('SRUN_ARGS', '--exclude=node1 --time=1:00')
    started = call('bash', TOOLS / f'slurm_{name}.sh', 'gpu', 'a job', 'c.py',
                   argument, '--data-root', 'my data')
    assert started.returncode == 0, started.stderr
    lines = started.stdout.splitlines()
    assert lines[:2] == ['--partition=gpu', '--job-name=a job']
    assert {
        '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4', '--exclude=node1',
        '--time=1:00'
    } <= set(lines)
    option = ['--work-dir'] * (name == 'train')
    assert lines[lines.index(sys.executable) + 1:] == [
        '-u', f'{TOOLS}/{name}.py', 'c.py', *option, argument, '--launcher',
        'slurm', '--data-root', 'my data'
    ]


@pytest.mark.parametrize(
    'path', [
        path for path in sorted(TOOLS.rglob('*.py'))
        if 'ArgumentParser' in path.read_text()
        or 'tool_parser' in path.read_text()
    ],
    ids=lambda path: path.stem)
def test_help_has_examples(path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, tool)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', [path.name, '--help'])
    with pytest.raises(SystemExit) as end:
        tool.main()
    assert end.value.code == 0
    assert f'python tools/{path.relative_to(TOOLS)}' in capsys.readouterr().out
