"""Checkpoint files are read whatever their wrapping, and never executed."""
import argparse
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmhier.checkpoints import (
    read_checkpoint,
    unwrap_state_dict,
)

WEIGHTS = {'a.weight': torch.arange(3.), 'a.bias': torch.ones(1)}


class CfgNode(dict):
    """Stand-in for a class that Swin-style trainers pickle, by its name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__['__immutable__'] = True


CfgNode.__module__ = 'yacs.config'


@pytest.mark.parametrize(
    'wrap', [
        lambda w: w,
        lambda w: dict(model=w, epoch=3),
        lambda w: dict(state_dict=w, meta=dict(epoch=1)),
        lambda w: dict(state_dict={
            f'module.{k}': v
            for k, v in w.items()
        }),
        lambda w: dict(model=w, args=argparse.Namespace(lr=0.1, batch_size=2)),
        lambda w: dict(model=w, config=CfgNode(MODEL=CfgNode(DEPTH=2))),
        lambda w: dict(
            state_dict=w,
            message_hub=dict(
                loss=HistoryBuffer([1., 2.], [1, 1]), lr=np.float64(0.1))),
    ],
    ids=[
        'bare', 'model', 'state_dict', 'module', 'namespace', 'yacs', 'mmengine'
    ])
def test_every_wrapping_is_read(tmp_path, monkeypatch, wrap):
    path = tmp_path / 'x.pth'
    with monkeypatch.context() as patch:
        yacs = types.SimpleNamespace(CfgNode=CfgNode)
        patch.setitem(sys.modules, 'yacs', types.SimpleNamespace(config=yacs))
        patch.setitem(sys.modules, 'yacs.config', yacs)
        torch.save(wrap(WEIGHTS), path)
    found = unwrap_state_dict(read_checkpoint(path))
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[k], v) for k, v in WEIGHTS.items())


def test_old_format_is_read(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(
        dict(model=WEIGHTS, args=argparse.Namespace(lr=1)),
        path,
        _use_new_zipfile_serialization=False)
    assert unwrap_state_dict(read_checkpoint(path)).keys() == WEIGHTS.keys()


class Malicious:

    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('call', [eval, exec])
def test_code_in_a_file_is_not_executed(tmp_path, call, zipped):
    path, witness = tmp_path / 'x.pth', tmp_path / 'witness'
    attack = Malicious(call, f'open({str(witness)!r}, "w").close()')
    torch.save(
        dict(state_dict=WEIGHTS, meta=attack),
        path,
        _use_new_zipfile_serialization=zipped)
    with pytest.raises(match='could execute code'):
        read_checkpoint(path)
    assert not witness.exists()


def test_getattr_of_a_file_reaches_no_module(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(dict(meta=Malicious(getattr, HistoryBuffer, '__init__')), path)
    with pytest.raises(match='could execute code'):
        read_checkpoint(path)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(match='none.pth does not exist'):
        read_checkpoint(tmp_path / 'none.pth')
    whole = tmp_path / 'whole.pth'
    torch.save(dict(model=torch.zeros(1000)), whole)
    content = whole.read_bytes()
    damaged = {
        'empty': b'',
        'half': content[:len(content) // 2],
        'text': b'not a checkpoint at all\n',
        'number': pickle.dumps(3, protocol=2),
    }
    for name, data in damaged.items():
        path = tmp_path / f'{name}.pth'
        path.write_bytes(data)
        with pytest.raises(match=f'{name}.pth'):
            read_checkpoint(path)


def test_a_file_without_weights_is_refused():
    with pytest.raises(match='no weights'):
        unwrap_state_dict(dict(epoch=1))
