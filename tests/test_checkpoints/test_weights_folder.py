"""Checkpoints are found in MMHIER_WEIGHTS, and hashes in names verified."""
import hashlib
from pathlib import Path

import pytest
import torch
from mmhier.checkpoints import (
    load_backbone_weights,
    read_checkpoint,
    resolve_checkpoint,
)
from mmhier.checkpoints.sources import load_checkpoint
from mmhier.errors import MMHierError
from mmhier.models.backbones import HATNet
from tests import golden


def save(path: Path, value: float = 0., hashed: bool = True) -> Path:
    """Write a checkpoint, and put its hash in its name."""
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict=dict(weight=torch.full((3, ), value))), path)
    if not hashed:
        return path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_stem(f'{path.stem}-{digest[:8]}'))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'weights').mkdir()
    return tmp_path / 'weights'


@pytest.mark.parametrize('asked', [
    'tiny.pth', 'elsewhere/tiny.pth', '/data/tiny.pth',
    'https://example.org/models/tiny.pth?download=1', '{name}',
    'http://example.org/{name}'
])
def test_found_by_file_name(folder, asked):
    saved = save(folder / 'tiny.pth')
    save(folder / 'tiny-more.pth')
    save(folder / 'small.pth')
    (folder / 'tiny-1234.pth').touch()
    assert resolve_checkpoint(asked.format(name=saved.name)) == str(saved)


def test_a_file_that_exists_is_not_replaced(folder, tmp_path):
    save(folder / 'tiny.pth', 1., hashed=False)
    own = save(tmp_path / 'tiny.pth', 2., hashed=False)
    assert resolve_checkpoint('tiny.pth') == 'tiny.pth'
    assert read_checkpoint('tiny.pth')['state_dict']['weight'][0] == 2
    own.unlink()
    assert read_checkpoint('tiny.pth')['state_dict']['weight'][0] == 1


def test_the_exact_name_comes_first(folder):
    exact = save(folder / 'tiny.pth', 1., hashed=False)
    save(folder / 'tiny.pth.pth', 2.)
    assert resolve_checkpoint('tiny.pth') == str(exact)


def test_ambiguity_names_both(folder):
    names = sorted(save(folder / 'tiny.pth', value).name for value in (1., 2.))
    with pytest.raises(match=f'ambiguous.*{names[0]} and {names[1]}'):
        resolve_checkpoint('tiny.pth')
    assert resolve_checkpoint(names[1]) == str(folder / names[1])


def test_absent_files_are_named(folder, monkeypatch):
    with pytest.raises(
            MMHierError,
            match='x.pth does not exist, nor is '
            f'it in MMHIER_WEIGHTS={folder}'):
        resolve_checkpoint('x.pth')
    url = 'petrel://bucket/x.pth'
    assert resolve_checkpoint(url) == url
    with pytest.raises(match='reads no such URLs'):
        read_checkpoint(url)
    with pytest.raises(match='did you mean hatnet-tiny_in1k'):
        resolve_checkpoint('hatnet-tiny')
    monkeypatch.setenv('MMHIER_WEIGHTS', 'nowhere')
    with pytest.raises(match='MMHIER_WEIGHTS=nowhere is not'):
        resolve_checkpoint('x.pth')
    monkeypatch.delenv('MMHIER_WEIGHTS')
    with pytest.raises(match='x.pth does not exist$'):
        resolve_checkpoint('x.pth')


def test_a_changed_file_is_refused(folder):
    saved = save(folder / 'tiny.pth', 1.)
    assert read_checkpoint(saved)['state_dict']['weight'][0] == 1
    expected = saved.stem[-8:]
    save(folder / 'other.pth', 2., hashed=False).replace(saved)
    found = hashlib.sha256(saved.read_bytes()).hexdigest()[:8]
    for name in (saved, 'tiny.pth', 'https://example.org/tiny.pth'):
        with pytest.raises(
                MMHierError,
                match=f'{saved.name}.*expected a '
                f'sha256 of {expected}.*found {found}'):
            read_checkpoint(name)


def test_dates_are_no_hashes(tmp_path):
    path = save(tmp_path / 'tiny-20260131.pth', hashed=False)
    assert read_checkpoint(path)
    with pytest.raises(match='expected a sha256 of 20269931'):
        read_checkpoint(path.rename(tmp_path / 'tiny-20269931.pth'))


def test_backbones_and_mmengine_look_in_the_folder(folder):
    weights = golden.official_state_dict('hatnet_tiny')
    torch.save(weights, folder / 'hatnet.pth')
    backbone = HATNet(
        'tiny', init_cfg=dict(type='Pretrained', checkpoint='hatnet.pth'))
    backbone.init_weights()
    name = 'ds2.conv.bias'
    assert torch.equal(backbone.state_dict()[name], weights[name])
    assert load_backbone_weights(backbone, 'hatnet.pth').fraction == 1
    for source in ('hatnet.pth', 'https://example.org/hatnet.pth'):
        content = load_checkpoint(source)
        assert torch.equal(content[name], weights[name])
