"""The tools as commands, in processes of their own."""
import inspect
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmhier import apis
from mmhier.apis import load_config
from mmhier.cli import train
from mmhier.cli.__main__ import COMMANDS, main, run
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
    signature = inspect.signature(getattr(apis, name))
    received = {}
    monkeypatch.setattr(apis, name, lambda **kwargs: received.update(kwargs))
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    run(name,
        ['config.py', '--cfg-options', 'a.b=[1,2]', 'c=x', '--local-rank', '3'])
    assert set(received) == set(signature.parameters)
    assert received['cfg_options'] == {'a.b': [1, 2], 'c': 'x'}
    assert os.environ.pop('LOCAL_RANK') == '3'
    for key, parameter in signature.parameters.items():
        if parameter.default is not parameter.empty and key != 'cfg_options':
            assert received[key] == parameter.default, key


@pytest.mark.parametrize('argv, expected', [([], None), (['--resume'], 'auto'),
                                            (['--resume', 'a.pth'], 'a.pth')])
def test_resume_takes_a_path_or_none(argv, expected):
    assert train.parser().parse_args(['config.py', *argv]).resume == expected


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
    assert ended.stderr.splitlines()[-1].endswith(
        '--cfg-options: expected KEY=VALUE, got train_cfg.max_epochs')
    assert 'Traceback' not in ended.stderr


@pytest.mark.slow
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


@pytest.mark.parametrize('command', COMMANDS)
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, '--help'])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f'usage: mmhier {command} ' in shown
    assert re.search(f'^    .*mmhier {command}\\b', shown, re.MULTILINE)


def test_scripts_are_the_commands():
    """Each script runs a command of the table, or is a maintainer's."""
    scripts = {
        match[1]: path
        for path in TOOLS.rglob('*.py') if (match := re.search(
            r"^    run\('([\w-]+)'\)$", path.read_text(), re.MULTILINE))
    }
    assert set(scripts) <= set(COMMANDS)
    assert {'train', 'test', 'doctor', 'flops'} <= set(scripts)
    for name in COMMANDS:
        module = import_module(f'mmhier.cli.{name.replace("-", "_")}')
        assert module.parser().prog == f'mmhier {name}'


def test_commands_by_group(capsys):
    with pytest.raises(SystemExit) as end:
        main(['--help'])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (group, text) in COMMANDS.items():
        assert lines.index(f'{group}:') < lines.index(f'  {name:16} {text}')


@pytest.mark.parametrize('argv, message', [
    ([], 'the following arguments are required: COMMAND'),
    (['tran'], "invalid choice: 'tran'"),
])
def test_no_such_command(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_python_m_mmhier_finds_configs_by_name():
    name = 'mask-rcnn_hatnet-tiny_fpn_1x_coco'
    listed = call(sys.executable, '-m', 'mmhier', 'configs', f'{name[:22]}*')
    assert listed.returncode == 0 and listed.stdout.split() == [
        name, f'{name[:-8]}_overfit_coco-mini'
    ]
    shown = call(sys.executable, '-m', 'mmhier', 'configs', name, '--path')
    assert Path(shown.stdout.strip()) == (
        TOOLS.parent / f'configs/hatnet/{name}.py')
    assert load_config(name, work_dir='/tmp').filename == shown.stdout.strip()
    none = call(sys.executable, '-m', 'mmhier', 'configs', 'vgg*')
    assert none.returncode == 2
    assert none.stderr == ('error: no config is named vgg*: `mmhier configs` '
                           'lists all\n')


def test_help_loads_nothing_heavy():
    """Nor does an option of a command, apart from --cfg-options."""
    code = """
import sys
from importlib import import_module
from mmhier.cli.__main__ import COMMANDS
for command in COMMANDS:
    module = import_module(f'mmhier.cli.{command.replace("-", "_")}')
    module.parser().format_help()
heavy = {'torch', 'mmengine', 'mmcv', 'numpy', 'cv2', 'pycocotools', 'yaml'}
print(heavy & set(sys.modules))
"""
    done = call(sys.executable, '-c', code)
    assert done.stdout == 'set()\n', done


HELP = [[str(path)]
        for path in sorted(TOOLS.rglob('*.py'))] + [['-m', 'mmhier', name]
                                                    for name in COMMANDS]


@pytest.mark.slow
@pytest.mark.parametrize('command', HELP, ids=' '.join)
def test_help_takes_half_the_time_of_importing_torch(command):
    """In turn, so that a busy machine slows both down."""

    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        assert call(sys.executable, *arguments).returncode == 0
        return time.perf_counter() - start

    # The margin is wide: a second and a third try are rarely needed.
    ratios = (
        seconds(*command, '--help') / seconds('-c', 'import torch')
        for _ in range(3))
    assert any(ratio <= 0.5 for ratio in ratios)
