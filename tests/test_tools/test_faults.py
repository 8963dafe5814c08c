"""Broken files and lost processes while a model is trained or tested."""
import errno
import gc
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing import resource_sharer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from mmhier import apis
from mmhier.checkpoints import (
    convert_checkpoint_file,
    publish_checkpoint_file,
    read_checkpoint,
)
from mmhier.engine.loading_errors import _is_cut_off
from mmhier.errors import MMHierError
from mmhier.export import export_model
from mmhier.leaderboard.submission import submit_coco
from mmhier.visualization.pictures import load_subjects
from ..lanes import slow
from . import samples
from .conftest import CONFIGS, DETECTOR
from .test_bad_checkpoint import Executes
from .test_resume import write_config

BROKEN = 'train2017/003.jpg', 'val2017/003.jpg'


@pytest.fixture
def root(tmp_path) -> Path:
    return samples.write_coco(tmp_path / 'data')


@pytest.fixture
def trained(detector_run) -> str:
    return str(Path(detector_run.work_dir) / 'epoch_1.pth')


def fail(run, *args, **kwargs) -> str:
    """Message of the MMHierError, which has to be a single line."""
    with pytest.raises(MMHierError) as raised:
        run(*args, **kwargs)
    message = str(raised.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize(
    'content, reason, workers',
    [
        (b'', 'is empty', 0),
        slow(b'not an image', 'is not an image', 0),
        slow(b'\xff\xd8\xff\xe0\x00\x10JFIF', 'is cut off', 0),
        # One is enough: torch waits five seconds for a worker of a loader that
        # was given up.
        slow(b'', 'is empty', 1),
    ],
    ids=['empty', 'text', 'cut-off', 'worker'])
def test_image_that_cannot_be_decoded(root, tmp_path, trained, content, reason,
                                      workers):
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
        except MMHierError as error:
            assert str(flipped) in str(error)
            found += 1
        else:
            torch.testing.assert_close(read, weights, rtol=0, atol=0)
    assert 0 < found < 200


@pytest.mark.slow
@pytest.mark.parametrize('batch_is_left', [False, True])
def test_worker_that_is_killed(masks_root, tmp_path, monkeypatch,
                               batch_is_left):
    config = write_config('segmentor', tmp_path / 'config.py', num_steps=6)
    arguments = dict(
        data_root=str(masks_root),
        work_dir=str(tmp_path),
        cfg_options={'train_dataloader.num_workers': 1})
    main = os.getpid()
    load = LoadImageFromFile.transform
    open_batch = resource_sharer.DupFd.detach

    def die(self, results):
        if os.getpid() != main and (tmp_path / 'iter_2.pth').exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, results)

    def lose(self):
        if (tmp_path / 'iter_2.pth').exists():
            worker, = multiprocessing.active_children()
            worker.kill()
            raise ConnectionResetError(errno.ECONNRESET, 'reset by peer')
        return open_batch(self)

    with monkeypatch.context() as context:
        if batch_is_left:
            context.setattr(resource_sharer.DupFd, 'detach', lose)
        else:
            context.setattr(LoadImageFromFile, 'transform', die)
        message = fail(apis.train, config, **arguments)
    # Until its loader is gone, torch raises the loss of a worker again with
    # the end of any other process.
    gc.collect()
    assert 'worker' in message and 'killed' in message
    assert '--resume' in message
    read_checkpoint(tmp_path / 'iter_2.pth')
    assert apis.train(config, resume='auto', **arguments).iter == 6
    assert not list(tmp_path.glob('.unfinished.*'))


def test_jpeg_that_opencv_fills_with_gray(root, tmp_path, trained, monkeypatch):
    """As its versions before 4.12 do."""
    for name in BROKEN:
        (root / name).write_bytes((root / name).read_bytes()[:-30])
    decode = cv2.imdecode

    def fill(content, flags):
        image = decode(content, flags)
        return np.full((64, 96, 3), 128, np.uint8) if image is None else image

    monkeypatch.setattr(cv2, 'imdecode', fill)
    arguments = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    message = fail(apis.train, DETECTOR, **arguments)
    assert message.startswith(f'{root}/{BROKEN[0]} is cut off: replace')
    message = fail(apis.test, DETECTOR, trained, **arguments)
    assert message.startswith(f'{root}/{BROKEN[1]} is cut off: replace')


def test_bytes_behind_a_whole_jpeg_are_no_fault(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (96, 64), (200, 40, 40)).save(path)
    content = path.read_bytes()
    for more in (b'', bytes(99), b'of a camera'):
        assert not _is_cut_off(content + more)
    for end in (-1, -2, -40, 30):
        assert _is_cut_off(content[:end])


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


@pytest.mark.slow
@pytest.mark.parametrize('write',
                         [write_cmyk, write_palette, write_sixteen_bits])
def test_unusual_images_are_trained_and_tested_on(root, tmp_path, write):
    for name in BROKEN:
        write(root / name)
    train_and_test(root, tmp_path)


def train_and_test(root, tmp_path, **options):
    arguments = dict(
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        cfg_options=options)
    assert apis.train(DETECTOR, **arguments).epoch == 1
    metrics = apis.test(DETECTOR, str(tmp_path / 'run' / 'epoch_1.pth'),
                        **arguments)
    assert 'coco/bbox_mAP' in metrics


def check(root, config=DETECTOR, every_file=True, **options) -> str:
    """Findings of a dry run in the training data."""
    # Without a model, which would take longer than the data.
    findings = apis.check_config(
        config,
        data_root=str(root),
        every_file=every_file,
        cfg_options={
            'model.backbone.arch': 'giant',
            **options
        })
    return '; '.join(f.message for f in findings
                     if f.level == 'error' and f.subject == 'train data')


def test_image_that_is_turned_while_its_boxes_are_not(root, tmp_path, trained):
    for name in BROKEN:
        write_exif(root / name)
    reason = ('is 64x96 pixels, but its annotations are for 96x64, so boxes '
              'would be misplaced: it is probably turned by its EXIF data')
    arguments = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    message = fail(apis.train, DETECTOR, **arguments)
    assert f'{root}/{BROKEN[0]} {reason}' in message
    message = fail(apis.test, DETECTOR, trained, **arguments)
    assert f'{root}/{BROKEN[1]} {reason}' in message
    assert "color_type='color_ignore_orientation'" in message
    assert ('1 images are of another size than their annotations, such as '
            f'{root}/{BROKEN[0]} {reason}') in check(root)
    as_stored = {
        f'{phase}_dataloader.dataset.pipeline.0.color_type':
        'color_ignore_orientation'
        for phase in ('train', 'val', 'test')
    }
    assert check(root, **as_stored) == ''
    train_and_test(root, tmp_path, **as_stored)


def test_image_that_is_cut_off_or_of_another_size(root):
    path = root / BROKEN[0]
    path.write_bytes(path.read_bytes()[:-30])
    found = check(root)
    assert '1 images cannot be read' in found and str(path) in found
    Image.new('RGB', (90, 64)).save(path)
    assert 'is 90x64 pixels, but its annotations are for 96x64' in check(root)


def test_every_file_is_checked_on_request(tmp_path):
    root = samples.write_masks(tmp_path / 'data')
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        folder = root / kind / 'training'
        for i in range(2, 201):
            shutil.copy(folder / f'0.{suffix}', folder / f'{i:03d}.{suffix}')
    config = str(CONFIGS / 'segmentor.py')
    # 100 images and 200 masks are read, the last of 201 not among them.
    image = root / 'images' / 'training' / '200.jpg'
    whole = image.read_bytes()
    image.write_bytes(whole[:-30])
    assert check(root, config, every_file=False) == ''
    found = check(root, config)
    assert '1 images cannot be read' in found and str(image) in found
    image.write_bytes(whole)
    mask = root / 'annotations' / 'training' / '200.png'
    cv2.imwrite(str(mask), np.full((64, 64), 9, np.uint8))
    assert check(root, config, every_file=False) == ''
    assert f'mask {mask} holds 9' in check(root, config)


def resize_image(root, split: str, size) -> str:
    """Replace the third image by one of another size, in the json too."""
    path = root / f'{split}2017' / '003.jpg'
    Image.new('RGB', size, (200, 40, 40)).save(path, 'PNG')
    json_path = root / 'annotations' / f'instances_{split}2017.json'
    content = json.loads(json_path.read_text())
    image = content['images'][3]
    image['width'], image['height'] = size
    for annotation in content['annotations']:
        if annotation['image_id'] == image['id']:
            annotation.update(
                bbox=[0, 0, *size],
                area=size[0] * size[1],
                segmentation=[[0, 0, size[0], 0, size[0], size[1]]])
    json_path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize('size', [(1, 1), (5000, 1), (1, 5000)])
def test_images_that_training_leaves_out_are_counted(root, tmp_path, size,
                                                     capfd):
    resize_image(root, 'train', size)
    runner = apis.train(
        DETECTOR,
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        no_validate=True)
    assert len(runner.train_dataloader.dataset) == 4
    assert ('1 of 6 images are narrower than filter_cfg.min_size=32 pixels, '
            'so they are left out, such as 003.jpg') in capfd.readouterr().out


@pytest.mark.slow
def test_training_on_images_without_area(root, tmp_path):
    arguments = dict(
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        no_validate=True,
        cfg_options={'train_dataloader.dataset.filter_cfg.min_size': 1})
    resize_image(root, 'train', (1, 1))
    assert apis.train(DETECTOR, **arguments).epoch == 1
    path = resize_image(root, 'train', (5000, 1))
    message = fail(apis.train, DETECTOR, overwrite=True, **arguments)
    assert f'{path} is 5000 x 1 pixels, too narrow to be resized' in message


def test_detection_in_images_without_area(root, tmp_path, trained):
    arguments = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    resize_image(root, 'val', (1, 1))
    assert 'coco/bbox_mAP' in apis.test(DETECTOR, trained, **arguments)
    path = resize_image(root, 'val', (1, 5000))
    message = fail(apis.test, DETECTOR, trained, **arguments)
    assert f'{path} is 1 x 5000 pixels, too narrow to be resized' in message


@pytest.mark.slow
@pytest.mark.parametrize('size', [(1, 1), (60, 1), (5000, 1)])
def test_segmentation_of_images_without_area(masks_root, tmp_path, size):
    config = write_config('segmentor', tmp_path / 'config.py')
    root = shutil.copytree(masks_root, tmp_path / 'masks')
    arguments = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    apis.train(config, no_validate=True, **arguments)
    for split in ('training', 'validation'):
        Image.new('RGB', size).save(root / 'images' / split / '0.jpg')
        Image.new('L', size, 1).save(root / 'annotations' / split / '0.png')
    width, height = size
    reason = f'0.png is {width} x {height} pixels, too narrow for a mask'
    if width == 5000:
        reason = '0.jpg is 5000 x 1 pixels, too narrow'
    message = fail(apis.train, config, overwrite=True, **arguments)
    assert str(root) in message and reason in message
    message = fail(apis.test, config, str(tmp_path / 'run' / 'iter_4.pth'),
                   **arguments)
    assert str(root) in message and reason in message


NOT_UTF8 = os.fsdecode(b'caf\xe9')


@pytest.mark.parametrize(
    'name', ['config', 'work_dir', 'data_root', 'checkpoint', 'option'])
def test_paths_that_are_not_utf8_are_named(root, tmp_path, trained, name):
    path = tmp_path / NOT_UTF8
    changed = {
        'config': dict(config=f'{path}.py'),
        'checkpoint': dict(checkpoint=f'{path}.pth'),
        'option': dict(cfg_options=dict(load_from=str(path))),
    }.get(name, {name: str(path)})
    arguments = dict(
        dict(
            config=DETECTOR,
            checkpoint=trained,
            data_root=str(root),
            work_dir=str(tmp_path / 'run')), **changed)
    expected = f'{tmp_path}/caf\\xe9'
    message = fail(apis.test, **arguments)
    assert expected in message and 'not UTF-8' in message
    arguments['resume'] = arguments.pop('checkpoint')
    if name != 'checkpoint':
        arguments['resume'] = None
    assert expected in fail(apis.train, **arguments)
    assert not path.exists()
    if name in ('config', 'data_root', 'option'):
        for argument in ('resume', 'work_dir'):
            del arguments[argument]
        finding, = apis.check_config(**arguments)
        assert finding.level == 'error' and expected in finding.message


@pytest.mark.slow
def test_images_whose_names_are_not_utf8(root, masks_root, tmp_path):
    for split in ('train', 'val'):
        folder = root / f'{split}2017'
        (folder / '003.jpg').rename(folder / f'{NOT_UTF8}.jpg')
        json_path = root / 'annotations' / f'instances_{split}2017.json'
        # The escape by which json states such a byte.
        json_path.write_text(json_path.read_text().replace(
            '003.jpg', 'caf\\udce9.jpg'))
    train_and_test(root, tmp_path)
    config = write_config('segmentor', tmp_path / 'config.py')
    masks = shutil.copytree(masks_root, tmp_path / 'masks')
    for folder in masks.glob('*/*'):
        for path in folder.glob('0.*'):
            path.rename(folder / f'{NOT_UTF8}{path.suffix}')
    arguments = dict(data_root=str(masks), work_dir=str(tmp_path / 'seg'))
    apis.train(config, **arguments)
    apis.test(config, str(tmp_path / 'seg' / 'iter_4.pth'), **arguments)


def test_what_a_tool_prints_may_be_no_text(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), 'utf-8')
    monkeypatch.setattr(sys, 'stdout', out)
    apis.run_tool(lambda: print(NOT_UTF8))
    out.flush()
    assert out.buffer.getvalue() == b'caf\\udce9\n'


def test_full_disk_while_logging(root, tmp_path, monkeypatch):
    from mmengine.visualization import LocalVisBackend

    def fill(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalVisBackend, '_dump', fill)
    message = fail(
        apis.train,
        DETECTOR,
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        cfg_options={'default_hooks.logger.interval': 1})
    assert message.startswith('the disk is full')


@pytest.fixture
def harmful(tmp_path):
    """A checkpoint that creates a folder when it is unpickled, and this."""
    trap = tmp_path / 'executed'
    path = tmp_path / 'harmful.pth'
    torch.save(dict(state_dict={}, meta=Executes(trap)), path)
    return str(path), trap


def pretrained(checkpoint: str) -> dict:
    """Options of a backbone that starts from a checkpoint."""
    return {
        'model.backbone.init_cfg':
        dict(type='Pretrained', checkpoint=checkpoint)
    }


@pytest.mark.parametrize(
    'run', [
        lambda path, root, out: convert_checkpoint_file(path, out / 'a.pth'),
        lambda path, root, out: publish_checkpoint_file(path, out / 'a.pth'),
        lambda path, root, out: export_model(DETECTOR, path, out / 'a.onnx'),
        lambda path, root, out: load_subjects([DETECTOR], [path]),
        lambda path, root, out: submit_coco(
            DETECTOR,
            path,
            data_root=str(root),
            work_dir=str(out),
            image_list=str(root / 'annotations/instances_val2017.json')),
        lambda path, root, out: apis.train(
            DETECTOR,
            data_root=str(root),
            work_dir=str(out),
            cfg_options=pretrained(path)),
        lambda path, root, out: apis.train(
            DETECTOR,
            data_root=str(root),
            work_dir=str(out),
            cfg_options=dict(load_from=path)),
    ],
    ids=[
        'convert', 'publish', 'export', 'draw', 'submit', 'pretrained',
        'load_from'
    ])
def test_no_tool_executes_a_checkpoint(root, tmp_path, harmful, run):
    path, trap = harmful
    out = tmp_path / 'out'
    out.mkdir()
    with pytest.raises(ValueError, match='could execute code'):
        run(path, root, out)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_a_dry_run_executes_no_checkpoint(root, harmful):
    path, trap = harmful
    findings = apis.check_config(DETECTOR, data_root=str(root), checkpoint=path)
    message, = (f.message for f in findings if f.subject == 'checkpoint')
    assert 'could execute code' in message and path in message
    assert not trap.exists()
