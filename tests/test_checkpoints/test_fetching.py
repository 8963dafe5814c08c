"""Official weights come from a server once, whole, and proven."""
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from mmhier.checkpoints import (
    official_weights,
    read_checkpoint,
    resolve_checkpoint,
)
from mmhier.checkpoints.resolving import cache_folder, cache_path
from mmhier.errors import MMHierError
from tests import golden

NAME = 'hvt-ti-1_in1k'
FILE = 'hvt_ti_1.pth'


@pytest.fixture(scope='module')
def official(tmp_path_factory) -> Path:
    """The authors' file of NAME, wrapped as they do."""
    path = tmp_path_factory.mktemp('official') / FILE
    torch.save(dict(model=golden.official_state_dict('hvt_ti_1')), path)
    return path


@pytest.fixture
def server(weights_server, official):
    shutil.copy(official, weights_server.folder)
    return weights_server


def cached() -> list[str]:
    return sorted(p.name for p in cache_folder().rglob('*') if p.is_file())


COMPLETE = [FILE, f'{FILE}.json', f'{FILE}.lock']


def test_fetched_once_and_recorded(server, official):
    path = Path(resolve_checkpoint(NAME))
    assert path == cache_folder() / FILE
    assert path.read_bytes() == official.read_bytes()
    record = json.loads(path.with_name(f'{FILE}.json').read_text())
    assert record['url'] == f'{server.url}/{FILE}'
    assert len(record['sha256']) == 64
    assert resolve_checkpoint(official_weights()[NAME].url) == str(path)
    assert server.downloads() == [FILE] and cached() == COMPLETE


def test_folder_comes_before_the_cache(server, tmp_path, monkeypatch):
    resolve_checkpoint(NAME)
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path))
    own = tmp_path / f'{NAME}.pth'
    shutil.copy(cache_folder() / FILE, own)
    assert resolve_checkpoint(NAME) == str(own)
    own.unlink()
    assert resolve_checkpoint(NAME) == str(cache_folder() / FILE)


def test_mirror_may_be_a_folder(server, monkeypatch):
    monkeypatch.setenv('MMHIER_WEIGHTS_URL', str(server.folder))
    assert read_checkpoint(NAME)['model']
    assert not server.requests


def test_any_url_is_cached_by_its_address(server):
    url = f'{server.url}/models/own.pth?download=1'
    server.put('own.pth?download=1', dict(weight=torch.ones(1)))
    path = resolve_checkpoint(url)
    assert path == str(cache_path(url)) and path.endswith('/models/own.pth')
    assert read_checkpoint(url)['weight'] == 1
    assert len(server.downloads()) == 1


@pytest.mark.parametrize('has_etag', [True, False])
def test_cut_connections_are_resumed(server, official, has_etag):
    server.has_etag = has_etag
    server.cuts = [300_000, 0]
    with pytest.raises(match='cut after .* bytes'):
        resolve_checkpoint(NAME)
    partial = cache_folder() / f'{FILE}.part'
    size = partial.stat().st_size
    assert size == (300_000 if has_etag else 0)
    server.cuts = [500_000, 400_000]
    server.requests.clear()
    if not has_etag:
        server.cuts = []
    path = resolve_checkpoint(NAME)
    assert Path(path).read_bytes() == official.read_bytes()
    assert cached() == COMPLETE
    ranges = [wanted for _, _, wanted in server.requests]
    expected = [f'bytes={start}-' for start in (300_000, 800_000, 1_200_000)]
    assert ranges == (expected if has_etag else [None])


def test_a_file_that_changed_meanwhile_is_not_mixed(server, official):
    server.cuts = [300_000, 0]
    with pytest.raises(match='cut'):
        resolve_checkpoint(NAME)
    weights = golden.official_state_dict('hvt_ti_1')
    weights['head.bias'] += 1
    changed = server.put(FILE, weights).read_bytes()
    assert Path(resolve_checkpoint(NAME)).read_bytes() == changed


def test_a_complete_partial_file_is_fetched_again(server, official):
    """As after a kill between the download and the proof."""
    server.cuts = [300_000, 0]
    with pytest.raises(match='cut'):
        resolve_checkpoint(NAME)
    shutil.copy(official, cache_folder() / f'{FILE}.part')
    assert Path(resolve_checkpoint(NAME)).read_bytes() == official.read_bytes()


def web_page(server):
    server.content_type = 'text/html; charset=utf-8'


def truncated(server):
    path = server.folder / FILE
    path.write_bytes(path.read_bytes()[:400_000])


def absent(server):
    (server.folder / FILE).unlink()


def too_large(server):
    server.claimed_length = 10**18


def other_variant(server):
    server.put(FILE, golden.official_state_dict('hvt_s_2'))


def incomplete(server):
    weights = golden.official_state_dict('hvt_ti_1')
    del weights['blocks.3.attn.qkv.bias']
    server.put(FILE, weights)


def transcnn(server):
    server.put(
        FILE, {
            'blocks.0.0.attn.qkv.weight': torch.zeros(1),
            'blocks.0.0.norm.running_mean': torch.zeros(1)
        })


def not_finite(server):
    weights = golden.official_state_dict('hvt_ti_1')
    weights['norm.bias'][3] = torch.nan
    server.put(FILE, weights)


def code(server):
    server.put(FILE, dict(model=Path))


@pytest.mark.parametrize('fault, message', [
    (web_page, r'sent a web page \(text/html\)'),
    (truncated, 'truncated or not a checkpoint'),
    (absent, 'the server answered 404'),
    (too_large, r'needs 10+ MB, and .* has \d+ MB left'),
    (other_variant,
     'not the weights of HVT ti-1, .* but those of HVT s-2, ImageNet'),
    (incomplete, r'1 missing \(backbone.blocks.3.attn.qkv.bias\)'),
    (transcnn, 'TransCNN'),
    (not_finite, 'norm.bias holds values that are not finite'),
    (code, 'could execute code and was not loaded'),
])
def test_unusable_files_do_not_reach_the_cache(server, fault, message):
    fault(server)
    with pytest.raises(match=message) as error:
        resolve_checkpoint(NAME)
    assert '\n' not in str(error.value) and server.url in str(error.value)
    assert FILE not in cached() and f'{FILE}.json' not in cached()


def test_offline_in_one_line(no_network):
    with pytest.raises(MMHierError) as error:
        resolve_checkpoint(NAME)
    assert str(error.value) == (
        'hvt-ti-1_in1k cannot be fetched (http://127.0.0.1:9/hvt_ti_1.pth: '
        '[Errno 111] Connection refused): run `curl -LO https://github.com/'
        'zhuang-group/HVT/releases/download/v1.0/hvt_ti_1.pth` where there is '
        f'a network and put hvt_ti_1.pth into {cache_folder()}')


def test_files_put_by_hand_are_proven(no_network, official):
    cache_folder().mkdir(parents=True)
    shutil.copy(official, cache_folder())
    assert resolve_checkpoint(NAME) == str(cache_folder() / FILE)
    assert cached() == COMPLETE


def test_full_disk(server):
    cache_folder().mkdir(parents=True)
    (cache_folder() / f'{FILE}.part').symlink_to('/dev/full')
    with pytest.raises(match='cannot write .*No space left'):
        resolve_checkpoint(NAME)


def test_unwritable_cache(server, monkeypatch):
    path = resolve_checkpoint(NAME)
    before = {p: p.stat().st_mtime_ns for p in cache_folder().iterdir()}
    assert resolve_checkpoint(NAME) == path
    assert {p: p.stat().st_mtime_ns for p in cache_folder().iterdir()} == before
    # Nobody, not even root, can write there.
    monkeypatch.setenv('XDG_CACHE_HOME', '/proc/none')
    with pytest.raises(
            MMHierError,
            match='cannot write to /proc/none/mmhier: .*XDG_CACHE_HOME'):
        resolve_checkpoint(NAME)


def test_changed_in_the_cache(server):
    path = Path(resolve_checkpoint(NAME))
    content = bytearray(path.read_bytes())
    content[-500_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(match='was changed since .*remove it'):
        resolve_checkpoint(NAME)


def test_changed_on_the_server(server):
    path = Path(resolve_checkpoint(NAME))
    path.unlink()
    weights = golden.official_state_dict('hvt_ti_1')
    weights['head.bias'] += 1
    server.put(FILE, weights)
    with pytest.raises(match='not the file that was fetched first'):
        resolve_checkpoint(NAME)
    path.with_name(f'{FILE}.json').unlink()
    assert resolve_checkpoint(NAME) == str(path)


def test_two_processes_fetch_once(server):
    context = multiprocessing.get_context('fork')
    with context.Pool(2) as pool:
        paths = pool.map(resolve_checkpoint, [NAME] * 2)
    assert paths == [str(cache_folder() / FILE)] * 2
    assert server.downloads() == [FILE]
