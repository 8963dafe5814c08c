"""docs/training.md: its commands, run as they are on small images."""
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from ..golden import official_state_dict
from . import samples
from .pages import SLIM, SLIM_NAME, Shell, commands, write_slim_checkout

PAGE = 'docs/training.md'
# The slim detector with a whole backbone, which takes the authors' weights.
WHOLE = SLIM + '''
model = dict(
    backbone=dict(_delete_=True, type='mmhier.HATNet', arch='tiny'),
    neck=dict(in_channels=[48, 96, 240, 384]))
'''


@pytest.fixture
def shell(tmp_path, coco_root, monkeypatch):
    for name in ('supervision', 'tensorboard'):
        pytest.importorskip(name)
    write_slim_checkout(tmp_path, coco_root)
    samples.write_yolo(tmp_path / 'data/parts')
    weights = official_state_dict('hatnet_tiny')
    torch.save(weights, tmp_path / 'HAT-Net_Tiny.pth')
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path))
    return Shell(tmp_path, monkeypatch)


def test_commands(shell, tmp_path, capfd):
    printed = {}
    for command in commands(PAGE):
        if 'init_cfg' in command:
            (tmp_path / f'configs/hatnet/{SLIM_NAME}.py').write_text(WHOLE)
        shell.run(command)
        printed[command] = capfd.readouterr().out

    def output(*words):
        found, = (text for command, text in printed.items()
                  if set(words) <= set(command.split()))
        return found

    assert 'NOTE     float32 step' in output('tools/check.py')
    assert re.search(f'going on from work_dirs/{SLIM_NAME}/epoch_12.pth',
                     output('--resume'))
    assert 'random weights: --from-scratch' in output('--from-scratch')
    assert '100.0 % of the parameters' in output('work_dirs/pretrained')
    published, = Path().glob('hatnet-tiny-coco-????????.pth')
    assert f'wrote {published}' in output('tools/publish_model.py')
    assert 2 * published.stat().st_size < Path(
        'work_dirs/pretrained/epoch_12.pth').stat().st_size

    config = config_of('work_dirs/small-batch')
    assert config.auto_scale_lr.enable
    assert config.train_dataloader.batch_size == 1
    assert config_of('work_dirs/bf16').optim_wrapper.type == (
        'mmhier.AutocastOptimWrapper')
    assert config_of('work_dirs/recomputed').model.backbone.with_cp
    assert len(config_of('work_dirs/tracked').visualizer.vis_backends) == 2
    parts = config_of('work_dirs/parts')
    assert parts.model.roi_head.bbox_head.num_classes == 2
    assert Path('data/parts-coco/train2017/0.jpg').is_file()
    check_work_dir(Path('work_dirs') / SLIM_NAME)
    check_jobs(shell.started)


def config_of(work_dir: str) -> Config:
    """Config of a training, from its record."""
    record = json.loads(Path(work_dir, 'train_record.json').read_text())
    return Config.fromstring(record['config_text'], '.py')


def check_work_dir(folder: Path) -> None:
    """It holds the files that the table of the page names."""
    assert (folder / 'epoch_12.pth').is_file()
    assert (folder / 'train_record.json').is_file()
    first = sorted(path for path in folder.iterdir() if path.is_dir())[0]
    assert (first / f'{first.name}.log').is_file()
    assert (first / 'vis_data/scalars.json').is_file()


def check_jobs(started: list) -> None:
    """How many processes are started where, and by which options."""
    train, test, two_gpus, node_0, node_1, slurm_train, slurm_test, fsdp = (
        started)
    for job, received in (train, two_gpus, node_0, node_1, fsdp):
        assert received['launcher'] == 'pytorch'
        assert job['training_script'].endswith('tools/train.py')
    assert (train[0]['nnodes'], train[0]['nproc_per_node']) == ('1', '8')
    assert test[0]['training_script'].endswith('tools/test.py')
    assert test[1]['checkpoint'].endswith(f'{SLIM_NAME}/epoch_12.pth')
    assert two_gpus[0]['nproc_per_node'] == '2'
    assert two_gpus[0]['master_port'] == 29501
    assert two_gpus[1]['auto_scale_lr']
    for rank, (job, _) in enumerate((node_0, node_1)):
        assert job['node_rank'] == rank
        assert (job['nnodes'], job['master_addr']) == ('2', '10.0.0.1')
    job, received = slurm_train
    assert (job['partition'], job['ntasks'],
            job['ntasks-per-node']) == ('gpu', '16', '8')
    assert received['work_dir'] == 'work_dirs/hatnet'
    job, received = slurm_test
    assert (job['job-name'], job['time']) == ('hatnet-test', '1:00:00')
    assert received['launcher'] == 'slurm'
    assert 'fsdp' in fsdp[1]['config']
