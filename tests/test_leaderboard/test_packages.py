"""Packages written by processes that are killed, and run lengths."""
import signal
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_api
from mmhier.leaderboard.packages import (
    new_package,
    staging_folder,
    staging_path,
)
from mmhier.leaderboard.run_lengths import decode_run_lengths

HALF_DONE = '''
import sys, time
from mmhier.leaderboard.packages import new_package
with new_package(sys.argv[1], overwrite=True) as path:
    path.write_text('half')
    print('half done', flush=True)
    time.sleep(600)
'''


def write(path, text) -> None:
    with new_package(path, overwrite=True) as staged:
        staged.write_text(text)


def test_killed_while_writing(tmp_path, capsys):
    path = tmp_path / 'out' / 'a.zip'
    write(path, 'earlier')
    process = subprocess.Popen([sys.executable, '-c', HALF_DONE,
                                str(path)],
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b'half done\n'
        with pytest.raises(match='written by another process'):
            write(path, 'other')
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (staging_path(path) / 'a.zip').read_text() == 'half'
    assert path.read_text() == 'earlier'

    write(path, 'later')
    assert f'removed {staging_path(path)}, which an interrupted run' in (
        capsys.readouterr().out)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == 'later'


def test_a_failed_write_leaves_the_old_package(tmp_path):
    path = tmp_path / 'a.zip'
    write(path, 'earlier')
    with pytest.raises(match='a.zip exists.*--overwrite'):
        with new_package(path, overwrite=False):
            pass
    with pytest.raises(KeyboardInterrupt):
        with new_package(path, overwrite=True) as staged:
            staged.write_text('half')
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == 'earlier'


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(match='cannot write .*a.zip: .*folder'):
        with staging_folder(tmp_path / 'file' / 'a.zip'):
            pass


def test_run_lengths_equal_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for density in (0, .01, .5, .99, 1):
        for size in ((7, 5), (640, 480)):
            bitmap = np.asfortranarray(rng.random(size) < density, np.uint8)
            counts = mask_api.encode(bitmap)['counts'].decode()
            lengths = decode_run_lengths(counts)
            flat = np.repeat(np.arange(len(lengths)) % 2, lengths)
            assert np.array_equal(flat, bitmap.ravel('F'))


def test_random_counts_never_pass_as_masks_of_another_size():
    rng = np.random.default_rng(0)
    for length in (1, 2, 8, 50):
        for codes in rng.integers(48, 112, (200, length)):
            lengths = decode_run_lengths(bytes(codes.tolist()).decode())
            assert lengths is None or lengths.min() >= 0
