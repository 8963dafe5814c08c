"""Interrupted trainings: nothing is lost, and they go on to the same bits."""
import errno
import os
import re
import subprocess
import sys
import zipfile
from glob import glob
from itertools import product
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmhier import apis
from mmhier.checkpoints import read_checkpoint
from mmhier.engine.checkpoints import find_newest_checkpoint
from ..lanes import fast_first
from .conftest import CONFIGS

ROOTS = {
    'mask-rcnn': 'coco_root',
    'segmentor': 'masks_root',
    'classifier': 'folders_root'
}
SLIM = dict(
    embed_dims=(16, 16, 32, 32),
    depths=(1, 1, 1, 1),
    head_dim=16,
    expansions=(2, 2, 2, 2),
    kernel_sizes=(3, 3, 3, 3),
    grid_sizes=(8, 7, 7, 1),
    ds_ratios=(8, 4, 2, 1))
AUGMENTATIONS = {
    'mask-rcnn':
    dict(
        type='RandomResize',
        scale=(96, 64),
        ratio_range=(0.5, 1.5),
        keep_ratio=True),
    'segmentor':
    dict(type='RandomCrop', crop_size=(48, 48)),
    # Its images are of one colour each.
    'classifier':
    dict(type='ColorJitter', brightness=0.5)
}
FLIP = dict(type='RandomFlip', prob=0.5)


def write_config(kind: str,
                 path: Path,
                 by_epoch: bool = False,
                 num_steps: int = 4,
                 every: int = 2,
                 **checkpoint) -> str:
    """Config of a short training with all that holds a state: moving
    averages, random augmentations, drop path, a schedule, validation in
    between."""
    cfg = Config.fromfile(CONFIGS / f'{kind}.py')
    cfg.model.backbone.update(arch=SLIM, drop_path_rate=0.3)
    for part, channels in (('decode_head', 16), ('head', 32)):
        if part in cfg.model:
            cfg.model[part].in_channels = channels
    cfg.train_cfg = dict(
        by_epoch=by_epoch,
        val_interval=every,
        **{'max_epochs' if by_epoch else 'max_iters': num_steps})
    dataset = cfg.train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)
    dataset.pipeline = [
        *dataset.pipeline[:-1], AUGMENTATIONS[kind], FLIP, dataset.pipeline[-1]
    ]
    if not by_epoch:
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
        cfg.train_dataloader.pop('batch_sampler', None)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3)
    ]
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=by_epoch, interval=every, **checkpoint)
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1)]
    cfg.dump(path)
    return str(path)


def assert_same(a, b, name: str = '') -> None:
    """Compare nested states to the last bit."""
    assert type(a) is type(b), name
    if isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            assert_same(a[key], b[key], f'{name}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), name
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f'{name}.{i}')
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    else:
        assert a == b, name


def training_state(path: Path) -> dict:
    """What a checkpoint holds apart from times."""
    content = read_checkpoint(path)
    del content['message_hub']
    content['meta'] = {k: content['meta'][k] for k in ('epoch', 'iter', 'seed')}
    return content


def workers(number: int, persistent: bool = True) -> dict:
    return {
        'train_dataloader.num_workers': number,
        'train_dataloader.persistent_workers': persistent and number > 0
    }


# Interrupted after two iterations, two epochs, or within the first of two.
# What workers draw must not depend on how many they are, nor for how long.
INTERRUPTIONS = {
    'iters': (dict(), {}, workers(1)),
    'epochs': (dict(by_epoch=True), {}, workers(1, persistent=False)),
    'within': (dict(by_epoch=True, num_steps=2), {
        'default_hooks.checkpoint.by_epoch': False,
        'train_dataloader.batch_size': 1
    }, workers(0)),
}


@pytest.mark.parametrize(
    'kind, interruption',
    fast_first([('segmentor', 'iters'),
                *(pair for pair in product(ROOTS, INTERRUPTIONS)
                  if pair != ('segmentor', 'iters'))]))
def test_two_and_two_are_four(kind, interruption, request, tmp_path):
    data_root = str(request.getfixturevalue(ROOTS[kind]))
    steps, options, other_workers = INTERRUPTIONS[interruption]
    config = write_config(kind, tmp_path / 'config.py', **steps)
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    resumed.mkdir()
    # No seed is given: the resumed run takes over that of the first.
    apis.train(
        config,
        data_root=data_root,
        work_dir=str(whole),
        cfg_options={
            **options,
            **workers(2)
        })
    middle = 'epoch_2.pth' if interruption == 'epochs' else 'iter_2.pth'
    end = Path((whole / 'last_checkpoint').read_text()).name
    (resumed / middle).write_bytes((whole / middle).read_bytes())
    torch.rand(7)  # other draws in between
    apis.train(
        config,
        data_root=data_root,
        resume='auto',
        work_dir=str(resumed),
        cfg_options={
            **options,
            **other_workers
        })
    states = [training_state(folder / end) for folder in (whole, resumed)]
    assert {'state_dict', 'optimizer', 'param_schedulers',
            'ema_state_dict'} <= set(states[0])
    assert_same(*states)
    before = training_state(whole / middle)
    assert states[0]['meta']['iter'] > before['meta']['iter']
    moved = [
        not torch.equal(v, before['state_dict'][k])
        for k, v in states[0]['state_dict'].items() if v.is_floating_point()
    ]
    assert any(moved)


def test_resuming_does_not_load_the_data_again(masks_root, tmp_path,
                                               monkeypatch):
    from mmseg.datasets import BaseSegDataset
    config = write_config('segmentor', tmp_path / 'config.py')
    arguments = dict(
        data_root=str(masks_root), work_dir=str(tmp_path), no_validate=True)
    apis.train(config, **arguments)
    loaded = []
    prepare = BaseSegDataset.prepare_data
    monkeypatch.setattr(
        BaseSegDataset, 'prepare_data',
        lambda self, idx: loaded.append(idx) or prepare(self, idx))
    runner = apis.train(
        config,
        resume='auto',
        **arguments,
        cfg_options={'train_cfg.max_iters': 6})
    assert len(loaded) == 2 * runner.train_dataloader.batch_size


KILLED = '''
import os, pathlib, signal, sys
import torch
from mmhier import apis

def train(moment, data_root, config, work_dir):
    # Kills itself before a step on a file, and lists the steps before it.
    steps = open(f'{work_dir}.steps', 'a', buffering=1)
    def killed_at(name, step, target):
        def act(*args, **kwargs):
            global moment_now
            path = str(args[target])
            if name == 'fsync':
                path = os.readlink(f'/proc/self/fd/{path}')
            if not path.endswith('.pth'):
                return step(*args, **kwargs)
            moment_now += 1
            if moment_now == moment:
                if name == 'fsync':
                    os.ftruncate(args[0], 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            step(*args, **kwargs)
            steps.write(f'{name} {args[target]}\\n')
        return act
    os.fsync = killed_at('fsync', os.fsync, 0)
    os.replace = killed_at('replace', os.replace, 1)
    pathlib.Path.unlink = killed_at('unlink', pathlib.Path.unlink, 0)
    apis.train(config, data_root=data_root, work_dir=work_dir, seed=0)

moment_now = 0
folder, data_root, *configs = sys.argv[1:]
torch.set_num_threads(1)
for config in configs:
    status, moment = None, 0
    while status != 0:
        moment += 1
        pid = os.fork()
        if not pid:
            name = pathlib.Path(config).stem
            train(moment, data_root, config, f'{folder}/{name}_{moment}')
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, signal.SIGKILL), status
'''


@pytest.mark.slow
def test_kill_at_any_moment_loses_no_checkpoint(masks_root, tmp_path, capfd):
    # One checkpoint is kept, so the first is outdated when the second comes.
    configs = [
        write_config(
            'segmentor',
            tmp_path / f'{name}.py',
            name == 'epochs',
            max_keep_ckpts=1,
            save_best='mIoU',
            rule='less') for name in ('iters', 'epochs')
    ]
    done = subprocess.run(
        [sys.executable, '-c', KILLED, tmp_path, masks_root, *configs],
        capture_output=True,
        text=True)
    assert done.returncode == 0, done.stderr
    for config in configs:
        name = Path(config).stem
        runs = list(tmp_path.glob(f'{name}_*.steps'))
        assert len(runs) >= 9, done.stdout
        resumed_from = set()
        for steps in runs:
            work_dir = steps.with_suffix('')
            present = set()
            newest = None
            for step in steps.read_text().splitlines():
                action, path = step.split(' ', 1)
                if action == 'replace':
                    present.add(path)
                    if 'best' not in Path(path).name:
                        newest = path
                elif action == 'unlink':
                    present.remove(path)
                    assert newest in present
            assert set(glob(f'{work_dir}/*.pth')) == present
            for path in present:
                read_checkpoint(path)
            unfinished = list(work_dir.glob('.unfinished.*'))
            capfd.readouterr()
            apis.train(
                config,
                data_root=str(masks_root),
                resume='auto',
                work_dir=str(work_dir),
                seed=0)
            out = ''.join(capfd.readouterr())
            assert newest is None or f'going on from {newest}' in out
            resumed_from.add(newest and Path(newest).name)
            assert (work_dir / f'{name[:-1]}_4.pth').exists()
            assert not list(work_dir.glob('.unfinished.*'))
            for path in unfinished:
                assert f'removed {path}, which an interrupted run left' in out
        assert len(resumed_from) == 3


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip_bit(path: Path) -> None:
    """In the middle of the largest tensor, where torch looks at nothing."""
    with zipfile.ZipFile(path) as archive:
        largest = max(
            (info for info in archive.infolist() if '/data/' in info.filename),
            key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def rename_iteration(path: Path) -> None:
    """In the pickle, which then loads and seems to hold no iteration."""
    key, other = b'X\x04\x00\x00\x00iter', b'X\x04\x00\x00\x00itex'
    content = path.read_bytes()
    assert key in content
    path.write_bytes(content.replace(key, other))


@pytest.mark.parametrize('damage, reason', [
    (truncate, 'is truncated or not a checkpoint'),
    (flip_bit, 'is damaged: the checksum of its part'),
    (rename_iteration, 'is damaged: the checksum of its part'),
])
def test_damaged_checkpoint_is_skipped_and_named(damage, reason, masks_root,
                                                 tmp_path, capfd):
    config = write_config('segmentor', tmp_path / 'config.py')
    arguments = dict(data_root=str(masks_root), work_dir=str(tmp_path))
    apis.train(config, **arguments)
    newest = tmp_path / 'iter_4.pth'
    damage(newest)
    capfd.readouterr()
    runner = apis.train(config, resume='auto', **arguments)
    out = ''.join(capfd.readouterr())
    skipped, = re.findall('skipped a checkpoint: (.*)', out)
    assert str(newest) in skipped and reason in skipped
    assert f'going on from {tmp_path}/iter_2.pth' in out
    assert runner.iter == 4
    read_checkpoint(newest)

    for path in tmp_path.glob('*.pth'):
        damage(path)
    with pytest.raises(apis.MMHierError, match='Start anew with --overwrite'):
        apis.train(config, resume='auto', **arguments)


@pytest.mark.slow
def test_newest_is_that_of_the_last_iteration(masks_root, tmp_path):
    """Whatever copying made of the files' times, and their names."""
    config = write_config(
        'segmentor', tmp_path / 'config.py', num_steps=10, save_best='mIoU')
    apis.train(config, data_root=str(masks_root), work_dir=str(tmp_path))
    for age, step in enumerate((10, 4, 8, 2, 6)):
        os.utime(tmp_path / f'iter_{step}.pth', (age, age))
    newest, skipped = find_newest_checkpoint(str(tmp_path))
    assert newest == str(tmp_path / 'iter_10.pth')
    (tmp_path / 'iter_10.pth').unlink()
    (tmp_path / 'iter_2.pth').rename(tmp_path / 'epoch_12.pth')
    newest, skipped = find_newest_checkpoint(str(tmp_path))
    assert newest == str(tmp_path / 'iter_8.pth')
    copy = tmp_path / 'copy.pth'
    copy.write_bytes((tmp_path / 'iter_8.pth').read_bytes())
    assert find_newest_checkpoint(str(tmp_path))[0] == str(copy)


def test_full_disk_keeps_what_is_there(masks_root, tmp_path, monkeypatch):
    config = write_config('segmentor', tmp_path / 'config.py', max_keep_ckpts=1)
    fsync = os.fsync

    def full(descriptor):
        if 'iter_4' in os.readlink(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(
            apis.MMHierError,
            match='iter_4.pth cannot be written: No space left'):
        apis.train(config, data_root=str(masks_root), work_dir=str(tmp_path))
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_2.pth']
    read_checkpoint(tmp_path / 'iter_2.pth')
    assert not list(tmp_path.glob('.unfinished.*'))


def test_loss_that_is_no_number_stops_the_training(coco_root, tmp_path):
    config = write_config('mask-rcnn', tmp_path / 'config.py')
    arguments = dict(
        data_root=str(coco_root), work_dir=str(tmp_path), no_validate=True)
    apis.train(config, **arguments)
    kept = {p: p.read_bytes() for p in tmp_path.glob('*.pth')}
    with pytest.raises(apis.MMHierError) as raised:
        apis.train(
            config,
            resume='auto',
            **arguments,
            cfg_options={
                'train_cfg.max_iters': 8,
                'model.rpn_head.loss_bbox.loss_weight': float('nan')
            })
    message = str(raised.value)
    assert message.startswith('loss_rpn_bbox')
    assert 'is not finite in iteration 5' in message
    assert str(coco_root / 'train2017') in message
    assert 'weights are not finite either' in message
    assert {p: p.read_bytes() for p in tmp_path.glob('*.pth')} == kept
