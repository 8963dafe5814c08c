"""Data with flaws that are left out, and images of every kind, in training."""
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from mmhier import apis
from . import samples
from .conftest import DETECTOR
from .test_faults import (
    fail,
    write_cmyk,
    write_palette,
    write_sixteen_bits,
)
from .test_resume import ROOTS, write_config


def assert_finite(runner):
    """Every weight, and the loss of every step."""
    assert all(p.isfinite().all() for p in runner.model.parameters())
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == runner.iter and np.isfinite(losses).all()


def test_flawed_annotations_are_counted(tmp_path, capfd):
    root = samples.write_coco(tmp_path / 'data')
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    annotations = content['annotations']
    good = annotations[-1]
    for i, flaw in enumerate(
        (dict(segmentation=[[5, 5, 20, 20]]), dict(bbox=[5, 5, 0, 20], area=0),
         dict(bbox=[20, 20, -9, -9], area=81))):
        annotations.append(dict(good, id=100 + i, **flaw))
    path.write_text(json.dumps(content))
    runner = apis.train(
        DETECTOR,
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        no_validate=True)
    assert_finite(runner)
    dataset = runner.train_dataloader.dataset
    assert sum(
        len(dataset.get_data_info(i)['instances'])
        for i in range(len(dataset))) == 7
    printed = capfd.readouterr().out
    assert ('1 of 9 annotations have only polygons of fewer than 3 points, so '
            'they are ignored, such as annotation 100') in printed
    assert ('2 of 9 annotations have a box of less than a pixel or no area, '
            'so they are left out, such as annotation 101') in printed


def test_masks_that_are_ignored_whole_or_have_palettes(masks_root, tmp_path,
                                                       capfd):
    root = shutil.copytree(masks_root, tmp_path / 'masks')
    folder = root / 'annotations' / 'training'
    Image.new('L', (64, 64), 255).save(folder / '0.png')
    labels = cv2.imread(str(folder / '1.png'), cv2.IMREAD_UNCHANGED)
    mask = Image.frombytes('P', (64, 64), labels.tobytes())
    mask.putpalette([9, 9, 9, 200, 0, 0])
    mask.save(folder / '1.png')
    runner = apis.train(
        write_config('segmentor', tmp_path / 'config.py'),
        data_root=str(root),
        work_dir=str(tmp_path / 'run'),
        # So that some batches hold nothing but ignored pixels.
        cfg_options={'train_dataloader.batch_size': 1})
    assert_finite(runner)
    assert (f'1 of 2 masks hold ignored pixels alone, such as {folder}/0.png'
            in capfd.readouterr().out)
    dataset = runner.train_dataloader.dataset
    found = [
        dataset[i]['data_samples'].gt_sem_seg.data.unique().tolist()
        for i in range(2)
    ]
    assert sorted(found) == [[0, 1], [255]]


@pytest.mark.parametrize('write',
                         [write_cmyk, write_palette, write_sixteen_bits])
def test_unusual_images_are_segmented(masks_root, tmp_path, write):
    root = shutil.copytree(masks_root, tmp_path / 'masks')
    for split in ('training', 'validation'):
        path = root / 'images' / split / '0.jpg'
        write(path)
        with Image.open(path) as image:
            image.crop((0, 0, 64, 64)).save(path, image.format)
    config = write_config('segmentor', tmp_path / 'config.py')
    arguments = dict(data_root=str(root), work_dir=str(tmp_path / 'run'))
    assert_finite(apis.train(config, **arguments))
    metrics = apis.test(config, str(tmp_path / 'run' / 'iter_4.pth'),
                        **arguments)
    assert 'mIoU' in metrics


@pytest.mark.parametrize('kind, name, reason', [
    ('segmentor', 'images/training/0.jpg', 'cannot be read'),
    ('classifier', 'train/dark/dark_0.jpg', 'is not an image'),
])
def test_image_that_cannot_be_decoded(kind, name, reason, request, tmp_path):
    root = shutil.copytree(
        request.getfixturevalue(ROOTS[kind]), tmp_path / 'data')
    (root / name).write_bytes(b'not an image')
    message = fail(
        apis.train,
        write_config(kind, tmp_path / 'config.py'),
        data_root=str(root),
        work_dir=str(tmp_path / 'run'))
    assert f'{root / name} {reason}' in message
