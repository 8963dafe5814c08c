"""Broken files and lost processes while a model is trained or tested."""
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from mmhier import apis
from mmhier.apis.errors import UserError
from mmhier.checkpoints import CheckpointError, read_checkpoint
from . import samples
from .conftest import DETECTOR

BROKEN = 'train2017/003.jpg', 'val2017/003.jpg'


@pytest.fixture
def root(tmp_path) -> Path:
    return samples.write_coco(tmp_path / 'data')


@pytest.fixture
def trained(detector_run) -> str:
    return str(Path(detector_run.work_dir) / 'epoch_1.pth')


def fail(run, *args, **kwargs) -> str:
    """Message of the UserError, which has to be a single line."""
    with pytest.raises(UserError) as raised:
        run(*args, **kwargs)
    message = str(raised.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('content, reason', [
    (b'', 'is empty'),
    (b'not an image', 'is not an image'),
    (b'\xff\xd8\xff\xe0\x00\x10JFIF', 'is not an image'),
], ids=['empty', 'text', 'cut-off'])
def test_image_that_cannot_be_decoded(root, tmp_path, trained, workers,
                                      content, reason):
    for name in BROKEN:
        (root / name).write_bytes(content)
    common = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    message = fail(
        apis.train,
        DETECTOR,
        cfg_options={'train_dataloader.num_workers': workers},
        **common)
    assert f'{root}/{BROKEN[0]} {reason}' in message
    message = fail(
        apis.test,
        DETECTOR,
        trained,
        cfg_options={'test_dataloader.num_workers': workers},
        **common)
    assert f'{root}/{BROKEN[1]} {reason}' in message


def test_checkpoint_with_a_flipped_bit(root, tmp_path, trained):
    content = bytearray(Path(trained).read_bytes())
    content[len(content) // 2] ^= 1
    flipped = tmp_path / 'flipped.pth'
    flipped.write_bytes(content)
    for run, args in ((apis.test, (str(flipped), )), (apis.train, ())):
        message = fail(
            run,
            DETECTOR,
            *args,
            data_root=str(root),
            work_dir=str(tmp_path / 'run'),
            cfg_options=dict(load_from=str(flipped)))
        assert f'{flipped} is damaged' in message
    assert flipped.read_bytes() == bytes(content)


def test_flipped_bits_are_found_or_harmless(tmp_path):
    flipped = tmp_path / 'flipped.pth'
    weights = {f'weight{i}': torch.arange(9.) + i for i in range(4)}
    torch.save(weights, flipped)
    content = flipped.read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for position in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(damaged)
        try:
            read = read_checkpoint(flipped)
        except CheckpointError as error:
            assert str(flipped) in str(error)
            found += 1
        else:
            torch.testing.assert_close(read, weights, rtol=0, atol=0)
    assert 0 < found < 200


def test_worker_that_is_killed(root, tmp_path, monkeypatch):
    from mmcv.transforms import LoadImageFromFile
    main = os.getpid()
    load = LoadImageFromFile.transform

    def die(self, results):
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, results)

    monkeypatch.setattr(LoadImageFromFile, 'transform', die)
    message = fail(
        apis.train,
        DETECTOR,
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        cfg_options={'train_dataloader.num_workers': 1})
    assert 'worker' in message and 'killed' in message
    assert '--resume' in message


def write_cmyk(path):
    Image.new('CMYK', (96, 64), (0, 200, 200, 0)).save(path, 'JPEG')


def write_palette(path):
    image = Image.new('RGB', (96, 64), (200, 40, 40))
    image.quantize(8).save(path, 'PNG')


def write_sixteen_bits(path):
    values = np.full((64, 96), 40000, np.uint16)
    Image.fromarray(values).save(path, 'PNG')


def write_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (96, 64), (200, 40, 40)).save(path, 'JPEG', exif=exif)


@pytest.mark.parametrize('write', [
    write_cmyk, write_palette, write_sixteen_bits, write_exif
])
def test_unusual_images_are_trained_and_tested_on(root, tmp_path, write):
    for name in BROKEN:
        write(root / name)
    runner = apis.train(
        DETECTOR, data_root=str(root), work_dir=str(tmp_path / 'run'))
    assert runner.epoch == 1
    metrics = apis.test(
        DETECTOR,
        str(tmp_path / 'run' / 'epoch_1.pth'),
        data_root=str(root),
        work_dir=str(tmp_path / 'run'))
    assert 'coco/bbox_mAP' in metrics


@pytest.mark.parametrize('size, reason', [((1, 1), 'not finite'),
                                          ((5000, 1), '5000 x 1 pixels')])
def test_images_without_area_are_named(root, tmp_path, size, reason):
    Image.new('RGB', size, (200, 40, 40)).save(root / BROKEN[0], 'PNG')
    message = fail(
        apis.train,
        DETECTOR,
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        seed=0)
    assert reason in message and f'{root}/{BROKEN[0]}' in message
