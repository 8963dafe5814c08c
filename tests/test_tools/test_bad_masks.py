"""Masks that do not fit their images or classes are named before training."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from mmhier.apis import MMHierError, check_data, load_config
from mmhier.datasets.mask_checks import check_masks, spread_evenly
from .conftest import CONFIGS

pytest.importorskip('mmseg')
SEGMENTOR = str(CONFIGS / 'segmentor.py')
TOOLS = Path(__file__).parents[2] / 'tools'
# The training set is repeated, the data set lies within.
TRAIN = 'train_dataloader.dataset.dataset'


@pytest.fixture
def root(masks_root, tmp_path):
    """A copy of the data to spoil."""
    return shutil.copytree(masks_root, tmp_path / 'masks')


@pytest.fixture
def mask(root):
    """Path of the first training mask, 64x64 of labels 0 and 1."""
    return root / 'annotations' / 'training' / '0.png'


@pytest.fixture
def check(root, tmp_path):

    def check_config(max_masks=200, **options):
        cfg = load_config(
            SEGMENTOR,
            data_root=str(root),
            work_dir=str(tmp_path / 'work'),
            cfg_options=options)
        check_data(cfg, ('train', 'val'), max_masks)

    return check_config


def save(path, values):
    Image.fromarray(values).save(path)


def test_good_masks_pass(check, root, capfd):
    check()
    printed = capfd.readouterr().out
    assert 'warning' not in printed
    assert (f'{TRAIN}: 2 of 2 masks in {root}/annotations/training looked at'
            in printed)


def test_label_outside_the_classes(check, mask):
    values = np.zeros((64, 64), np.uint8)
    values[3, 5] = 2
    save(mask, values)
    with pytest.raises(MMHierError) as error:
        check()
    assert str(error.value) == (
        f'mask {mask} holds 2, which is none of the 2 classes: expected 0 to '
        '1, or 255 where no class is known')


def test_labels_that_start_at_one(check, mask):
    save(mask, np.full((64, 64), 2, np.uint8))
    with pytest.raises(
            MMHierError,
            match='If the first class is 1, and 0 stands'
            ' for none, set reduce_zero_label=True'):
        check()


def test_mask_of_another_size(check, mask):
    save(mask, np.zeros((32, 48), np.uint8))
    with pytest.raises(MMHierError) as error:
        check()
    image = str(mask).replace('annotations', 'images').replace('png', 'jpg')
    assert str(error.value) == (
        f'mask {mask} has 48x32 pixels, but its image {image} has 64x64: they '
        'have to agree')


def test_mask_of_colours(check, mask):
    save(mask, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(
            MMHierError,
            match=re.escape(
                f'mask {mask} has 3 channels (RGB): expected one, with the '
                'label of each pixel')):
        check()


def test_values_of_sixteen_bits_do_not_wrap(check, mask):
    """mmseg would take 256 for 0."""
    save(mask, np.full((64, 64), 256, np.uint16))
    with pytest.raises(MMHierError, match='holds 256, which is none'):
        check()


def test_palette_and_bilevel_masks_are_labels(check, mask, root):
    palette = Image.new('P', (64, 64), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(mask)
    save(root / 'annotations' / 'training' / '1.png', np.eye(64, dtype=bool))
    check()


def test_unreadable_mask(check, mask):
    mask.write_bytes(b'no picture')
    with pytest.raises(MMHierError, match=f'mask {mask} cannot be read'):
        check()


def test_image_without_mask(check, mask, root):
    mask.unlink()
    with pytest.raises(
            MMHierError,
            match=re.escape(
                f'1 of the 2 images have no mask, such as {root}/images/'
                f'training/0.jpg: expected {mask}. Check seg_map_suffix')):
        check()


def test_mask_without_image(check, root, capfd):
    (root / 'images' / 'training' / '0.jpg').unlink()
    check()
    assert (f'warning: 1 masks have no image, such as {root}/annotations/'
            'training/0.png' in capfd.readouterr().out)


def test_no_image_with_the_suffix(check):
    with pytest.raises(
            MMHierError,
            match="finds no image in .*/images/training "
            "with img_suffix='.jpeg'"):
        check(**{f'{TRAIN}.img_suffix': '.jpeg'})


def test_reduced_masks_without_zero(check, root):
    for path in (root / 'annotations' / 'training').iterdir():
        save(path, np.full((64, 64), 1, np.uint8))
    options = {f'{TRAIN}.reduce_zero_label': True}
    with pytest.raises(
            MMHierError,
            match='none of 2 masks holds a 0, such as .*'
            'If their first class is 0, set reduce_zero_label=False'
            '.*allow_no_zero_label=True'):
        check(**options)
    check(**options, allow_no_zero_label=True)


def test_reduced_masks_shift_the_range(check, root):
    """0 is ignored, 1 and 2 are the two classes."""
    for i, path in enumerate((root / 'annotations' / 'training').iterdir()):
        values = np.full((64, 64), 2, np.uint8)
        values[:8] = 0
        values[8:16] = 255
        values[20, 20] = 2 + i
        save(path, values)
    with pytest.raises(
            MMHierError,
            match='holds 3, which is none of the 2 class'
            r'es: expected 1 to 2 \(reduce_zero_label\), or 0 or '
            '255 where no'):
        check(**{f'{TRAIN}.reduce_zero_label': True})


def test_two_statements_of_reduce_zero_label(check):
    with pytest.raises(
            MMHierError,
            match='reduce_zero_label=False, but LoadAnno'
            'tations in its pipeline has reduce_zero_label=True'):
        check(**{f'{TRAIN}.pipeline.1.reduce_zero_label': True})


def test_masks_that_are_ignored_whole(check, mask, capfd):
    save(mask, np.full((64, 64), 255, np.uint8))
    check()
    assert (f'warning: 1 of 2 masks hold ignored pixels alone, such as {mask}'
            in capfd.readouterr().out)


def test_num_classes_of_another_dataset(check):
    with pytest.raises(
            MMHierError,
            match=re.escape(
                'model.decode_head.num_classes=19 disagrees with the 2 classes '
                f'of {TRAIN}: set model.decode_head.num_classes=2, or both '
                'with --classes')):
        check(**{'model.decode_head.num_classes': 19})


def test_data_without_classes(check):
    with pytest.raises(MMHierError, match=f'{TRAIN} has no classes: name them'):
        check(**{f'{TRAIN}.metainfo': None})


def test_a_prefix_of_masks_is_needed(check):
    with pytest.raises(MMHierError, match='data_prefix has no seg_map_path'):
        check(**{
            f'{TRAIN}.data_prefix':
            dict(_delete_=True, img_path='images/training')
        })


def test_palette_that_does_not_fit(check):
    with pytest.raises(MMHierError, match=f'{TRAIN}: palette does not match'):
        check(**{f'{TRAIN}.metainfo.palette': [[1, 2, 3]]})


def test_selected_classes_keep_the_range_of_the_masks(check, root):
    """ADE20K's wall and sky; the masks hold all 150."""
    values = np.full((64, 64), 150, np.uint8)
    values[:4] = 0
    for path in (root / 'annotations' / 'training').iterdir():
        save(path, values)
    check(
        **{
            f'{TRAIN}.type': 'ADE20KDataset',
            f'{TRAIN}.metainfo': dict(_delete_=True, classes=('wall', 'sky'))
        })


def test_only_so_many_masks_are_read(check, root, mask, capfd):
    save(root / 'annotations' / 'training' / '1.png',
         np.full((64, 64), 9, np.uint8))
    check(max_masks=1)
    assert '1 of 2 masks' in capfd.readouterr().out
    assert spread_evenly('abcdefghij', 4) == ['a', 'c', 'f', 'h']
    assert spread_evenly('abc', 4) == ['a', 'b', 'c']


def test_turned_photos_have_the_size_that_mmcv_loads(tmp_path):
    image, mask = str(tmp_path / 'a.jpg'), str(tmp_path / 'a.png')
    photo = Image.fromarray(np.zeros((32, 48, 3), np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(image, exif=exif)
    save(mask, np.zeros((48, 32), np.uint8))
    assert check_masks([(image, mask)], 1) == []


def test_another_ignored_label(tmp_path):
    image, mask = str(tmp_path / 'a.jpg'), str(tmp_path / 'a.png')
    save(image, np.zeros((32, 48, 3), np.uint8))
    save(mask, np.array([[0, 7]] * 2, np.uint8).repeat(16, 0).repeat(24, 1))
    with pytest.raises(ValueError, match='holds 7'):
        check_masks([(image, mask)], 2)
    warning, = check_masks([(image, mask)], 2, ignore_index=7)
    assert '1 of 2 classes occur in none of 1 masks' in warning


def test_training_ends_with_one_line(root, mask, tmp_path):
    save(mask, np.full((64, 64), 7, np.uint8))
    ended = subprocess.run([
        sys.executable,
        str(TOOLS / 'train.py'), SEGMENTOR, '--data-root',
        str(root), '--work-dir',
        str(tmp_path / 'work')
    ],
                           capture_output=True,
                           text=True,
                           timeout=300)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        f'error: mask {mask} holds 7, which is none of the 2 classes: expected'
        ' 0 to 1, or 255 where no class is known')
    assert 'Traceback' not in ended.stderr
