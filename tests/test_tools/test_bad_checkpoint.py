"""Checkpoints: nothing in them is executed, and unfit ones are refused."""
import os
import pickle
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from mmhier import apis
from mmhier.apis import MMHierError
from mmhier.checkpoints import read_checkpoint
from mmhier.checkpoints.initializer import init_weights, use_safe_initializers
from mmhier.checkpoints.sources import load_checkpoint
from mmhier.engine.runner import Runner
from .conftest import DETECTOR


class Executes:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


class FetchesAttribute:
    """Asks for an attribute of a function when unpickled."""

    def __reduce__(self):
        return getattr, (torch.nn.Parameter, '__init__')


@pytest.fixture
def good(detector_run) -> dict:
    path = Path(detector_run.work_dir) / 'epoch_1.pth'
    return torch.load(path, weights_only=False)


@pytest.fixture
def run(coco_root, tmp_path):
    """Test or resume from what the argument holds."""

    def run_tool(checkpoint, resume=False):
        path = tmp_path / 'checkpoint.pth'
        if isinstance(checkpoint, dict):
            torch.save(checkpoint, path)
        elif isinstance(checkpoint, bytes):
            path.write_bytes(checkpoint)
        arguments = dict(
            data_root=str(coco_root), work_dir=str(tmp_path / 'work'))
        if resume:
            return apis.train(
                DETECTOR, resume=str(path), no_validate=True, **arguments)
        return apis.test(DETECTOR, str(path), **arguments)

    return run_tool


def test_missing(run):
    for resume in (False, True):
        with pytest.raises(MMHierError, match='checkpoint.pth does not exist'):
            run(None, resume=resume)


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.99])
def test_truncated(share, detector_run, tmp_path):
    content = (Path(detector_run.work_dir) / 'epoch_1.pth').read_bytes()
    path = tmp_path / 'checkpoint.pth'
    path.write_bytes(content[:int(share * len(content))])
    with pytest.raises(match='checkpoint.pth .*is truncated'):
        read_checkpoint(path)


def test_truncated_is_refused_by_the_tools(run, detector_run):
    content = (Path(detector_run.work_dir) / 'epoch_1.pth').read_bytes()
    with pytest.raises(MMHierError, match='checkpoint.pth .*is truncated'):
        run(content[:len(content) // 2])


@pytest.mark.parametrize('resume', [False, True])
def test_malicious_pickle_is_not_executed(run, good, tmp_path, resume):
    trap = tmp_path / 'executed'
    good['meta']['extra'] = Executes(trap)
    with pytest.raises(MMHierError, match='could execute code'):
        run(good, resume=resume)
    assert not trap.exists()
    # The trap works.
    torch.load(tmp_path / 'checkpoint.pth', weights_only=False)
    assert trap.exists()


def test_old_format_pickle_is_not_executed(run, tmp_path):
    trap = tmp_path / 'executed'
    with pytest.raises(MMHierError, match='was not loaded'):
        run(pickle.dumps(Executes(trap), protocol=2))
    assert not trap.exists()


def test_config_in_a_checkpoint_is_not_executed(run, good, tmp_path):
    """mmengine evaluates meta['config'] as Python when it resumes."""
    trap = tmp_path / 'executed'
    good['meta']['config'] = f'import os\nos.mkdir({str(trap)!r})'
    run(good, resume=True)
    assert not trap.exists()


def test_getattr_is_not_lent_to_a_checkpoint(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict=FetchesAttribute()), path)
    with pytest.raises(ValueError, match='getattr'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'backbone', [
        dict(type='mmdet.ResNet', depth=18),
        dict(type='mmdet.SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1)),
    ],
    ids=['by-initializer', 'by-own-loader'])
def test_pretrained_weights_of_others_are_not_executed(backbone, tmp_path):
    trap, path = tmp_path / 'executed', tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict={}, meta=Executes(trap)), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    options = [dict(init_cfg=init_cfg)]
    if backbone['type'] == 'mmdet.ResNet':  # whose constructor makes the same
        options.append(dict(pretrained=str(path)))
    for option in options:
        runner = Runner(
            dict(backbone, **option), str(tmp_path), default_scope='mmdet')
        with pytest.raises(MMHierError, match='could execute code'):
            runner._init_model_weights()
    init_cfg = ConfigDict(init_cfg)  # as Swin expects
    model = MODELS.build(dict(backbone, init_cfg=init_cfg))
    with pytest.raises(MMHierError, match='could execute code'):
        init_weights(model)
    assert not trap.exists()
    with suppress(IndexError):  # no weights
        model.init_weights()  # mmengine's own way
    assert trap.exists()


def test_pretrained_weights_of_others_are_loaded(tmp_path):
    """Last, so that no other initializer overwrites them."""
    path = tmp_path / 'detector.pth'
    norm = 'layer1.0.bn2.weight'  # zero_init_residual makes it 0
    torch.save({f'backbone.{norm}': torch.full((64, ), 3.)}, path)
    model = dict(
        type='mmdet.ResNet',
        depth=18,
        init_cfg=dict(
            type='Pretrained', checkpoint=str(path), prefix='backbone'))
    runner = Runner(model, str(tmp_path), default_scope='mmdet')
    runner._init_model_weights()
    assert (runner.model.state_dict()[norm] == 3).all()
    with pytest.raises(match="under prefix='neck'"):
        model['init_cfg']['prefix'] = 'neck'
        init_weights(MODELS.build(use_safe_initializers(model)))


def test_a_scheme_of_the_user_is_kept(run, good):
    """And it reads what it is registered for, in our tools too."""
    before = dict(CheckpointLoader._schemes)
    read = []

    def load(filename, map_location):
        read.append(filename)
        return good

    CheckpointLoader.register_scheme('bucket://', load)
    try:
        run(good)
        assert CheckpointLoader._schemes == dict(before) | {'bucket://': load}
        assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
        assert load_checkpoint('bucket://a.pth') is good
        assert read == ['bucket://a.pth']
    finally:
        del CheckpointLoader._schemes['bucket://']


def test_a_url_is_downloaded_once_and_read_safely(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    trap, served = tmp_path / 'executed', tmp_path / 'served'
    served.mkdir()
    torch.save(dict(weight=torch.ones(1)), served / 'good.pth')
    torch.save(dict(weight=Executes(trap)), served / 'bad.pth')
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        assert load_checkpoint(f'{url}/good.pth')['weight'] == 1
        with pytest.raises(match='could execute code'):
            load_checkpoint(f'{url}/bad.pth')
        with pytest.raises(match='cannot be fetched'):
            load_checkpoint(f'{url}/absent.pth')
        server.shutdown()
    assert load_checkpoint(f'{url}/good.pth')['weight'] == 1
    assert not trap.exists()


def test_another_network(run, good):
    weights = good['state_dict']
    good['state_dict'] = {
        name.replace('backbone', 'trunk'): value
        for name, value in weights.items()
    }
    kept = sum('backbone' not in name for name in weights)
    with pytest.raises(
            MMHierError,
            match=f'{kept} of {len(weights)} keys matched; .* missing: '
            r'backbone.*not in the model: trunk'):
        run(good)


def test_head_for_other_classes(run, good):
    """Nearly all keys match, yet the classes would be random."""
    weights = good['state_dict']
    name = 'roi_head.bbox_head.fc_cls.weight'
    weights[name] = torch.zeros(81, 32)
    with pytest.raises(
            MMHierError,
            match=f'{len(weights) - 1} of {len(weights)} keys matched; 1 of '
            f'another shape: {name}'):
        run(good)


def test_deeper_network(run, good):
    """Its first blocks have the names and shapes of the model."""
    extra = torch.zeros(1000, 1000)
    good['state_dict']['backbone.blocks.0.9.weight'] = extra
    with pytest.raises(
            MMHierError, match='1 not in the model: backbone.blocks'):
        run(good)


def test_weights_alone_cannot_be_resumed(run, good):
    with pytest.raises(MMHierError, match='no training state .*load_from'):
        run(dict(state_dict=good['state_dict']), resume=True)


def test_training_starts_from_weights_with_another_head(good, coco_root,
                                                        tmp_path):
    path = tmp_path / 'weights.pth'
    weights = good['state_dict']
    weights['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(81, 32)
    torch.save(dict(state_dict=weights), path)
    arguments = dict(
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'work'),
        no_validate=True,
        cfg_options=dict(load_from=str(path)))
    assert apis.train(DETECTOR, **arguments).iter == 3
    torch.save({'layer.weight': torch.zeros(9, 9)}, path)
    with pytest.raises(MMHierError, match=f'0 of {len(weights)} keys matched'):
        apis.train(DETECTOR, overwrite=True, **arguments)
