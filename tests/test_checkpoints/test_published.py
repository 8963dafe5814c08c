"""Published checkpoints: no training state, and a hash in the name."""
import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import ExponentialMovingAverage
from safetensors import safe_open
from mmhier.checkpoints import (
    publish_checkpoint_file,
    read_checkpoint,
)

CLASSES = ('box', 'bar')


def training_checkpoint() -> dict:
    """A checkpoint as mmengine saves it, of a network with one layer."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return dict(
        state_dict=OrderedDict(layer.state_dict()),
        meta=dict(
            epoch=12,
            iter=48,
            dataset_meta=dict(classes=CLASSES),
            cfg='model = dict()',
            hook_msgs=dict(last_ckpt='/home/someone/epoch_12.pth')),
        optimizer=optimizer.state_dict(),
        param_schedulers=[dict(last_step=3)],
        message_hub=dict(loss=HistoryBuffer([1.], [1]), lr=np.float64(0.1)))


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / 'epoch_12.pth'
    torch.save(training_checkpoint(), path)
    return path


def save_with_averages(path: Path):
    """Save with EMAHook; weights are 1, their averages 3."""
    layer = torch.nn.Linear(3, 2)
    hook = EMAHook()
    hook.ema_model = ExponentialMovingAverage(layer)
    for parameters, value in ((layer.parameters(), 1.),
                              (hook.ema_model.parameters(), 3.)):
        for parameter in parameters:
            parameter.data.fill_(value)
    checkpoint = dict(state_dict=OrderedDict(layer.state_dict()))
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, path)


def test_only_weights_and_meta_stay(source, tmp_path):
    path = publish_checkpoint_file(source, tmp_path / 'out' / 'model.pth')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path == tmp_path / 'out' / f'model-{digest[:8]}.pth'
    assert list(path.parent.iterdir()) == [path]
    # Plain torch reads it safely as well.
    content = torch.load(path, weights_only=True)
    assert set(content) == {'state_dict', 'meta'}
    before = read_checkpoint(source)
    for name, value in before['state_dict'].items():
        assert torch.equal(content['state_dict'][name], value)
    meta = content['meta']
    assert meta['dataset_meta']['classes'] == CLASSES
    assert (meta['epoch'], meta['cfg']) == (12, 'model = dict()')
    assert b'/home/someone' not in path.read_bytes()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert meta['published']['source_sha256'] == digest
    assert path.stat().st_size < source.stat().st_size


def test_publishing_again_gives_the_same_file(source, tmp_path):
    first = publish_checkpoint_file(source, tmp_path / 'model.pth')
    with pytest.raises(match=f'{first.name} exists.*'
                       '--overwrite'):
        publish_checkpoint_file(source, tmp_path / 'model.pth')
    assert first == publish_checkpoint_file(
        source, tmp_path / 'model-00000000.pth', overwrite=True)


@pytest.mark.parametrize('ema, value', [('averaged', 3.), ('raw', 1.)])
def test_either_weights_of_ema_are_kept(tmp_path, ema, value):
    source = tmp_path / 'epoch_1.pth'
    save_with_averages(source)
    with pytest.raises(match='--ema averaged .* --ema raw'):
        publish_checkpoint_file(source, tmp_path / 'model.pth')
    path = publish_checkpoint_file(source, tmp_path / 'model.pth', ema)
    weights = read_checkpoint(path)['state_dict']
    assert set(weights) == {'weight', 'bias'}
    assert all((v == value).all() for v in weights.values())


def test_ema_without_averages(source, tmp_path):
    with pytest.raises(match='no ema_state_dict'):
        publish_checkpoint_file(source, tmp_path / 'model.pth', 'raw')


def test_safetensors_hold_weights_and_metadata(source, tmp_path):
    name = 'mask-rcnn_hatnet-tiny_fpn_1x_coco'
    with pytest.raises(match='--safetensors needs --config'):
        publish_checkpoint_file(source, tmp_path / 'm.pth', safetensors=True)
    path = publish_checkpoint_file(
        source, tmp_path / 'm.safetensors', safetensors=True, config=name)
    # As other programs read it.
    weights = read_checkpoint(source)['state_dict']
    with safe_open(path, framework='np') as file:
        assert set(file.keys()) == set(weights)
        assert file.metadata()['format'] == 'pt'
        assert file.metadata()['config'] == f'"{name}"'
    content = read_checkpoint(path)
    for key, value in content['state_dict'].items():
        assert torch.equal(weights[key], value)
    meta = content['meta']
    assert tuple(meta['dataset_meta']['classes']) == CLASSES
    assert meta['preprocessing']['mean'] == [123.675, 116.28, 103.53]
    assert (meta['config'], meta['epoch']) == (name, 12)
    path.write_bytes(path.read_bytes()[:-1])
    renamed = path.rename(tmp_path / 'cut.safetensors')
    with pytest.raises(match='cut.safetensors .* truncated'):
        read_checkpoint(renamed)


@pytest.mark.parametrize('name, reason', [
    ('model.zip', 'must end with .pth'),
    ('model', 'must end with .pth'),
    ('epoch_12.pth/model.pth', 'folder .*epoch_12.pth cannot be written to'),
])
def test_unusable_targets(source, tmp_path, name, reason):
    before = source.read_bytes()
    with pytest.raises(match=reason):
        publish_checkpoint_file(source, tmp_path / name)
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == before
