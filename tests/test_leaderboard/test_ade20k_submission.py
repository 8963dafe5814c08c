"""Packages for the ADE20K server: written files, refused input."""
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from mmhier.datasets.shapes import generate_shapes
from mmhier.leaderboard.ade20k_submission import (
    ade20k_package_name,
    check_ade20k_package,
    read_image_sizes,
    write_ade20k_package,
)

ADE_MINI = Path(__file__).parents[3] / 'shared' / 'data' / 'ade_mini'
OTHER = 0


@pytest.fixture(scope='module')
def shapes_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('shapes') / 'set'
    generate_shapes(root, num_train=1, num_val=16, image_size=64)
    return root


@pytest.fixture(params=['shapes', 'ade_mini'])
def root(request, shapes_root) -> Path:
    if request.param == 'shapes':
        return shapes_root
    if not ADE_MINI.is_dir():
        pytest.skip('no ade_mini beside the repository')
    return ADE_MINI


def predict_ground_truth(root: Path, folder: Path, **meta) -> None:
    """Give the ground truth to mmseg's metric as if a model had found it.

    Where it says "other", a model finds any class: here, that of index 149.
    """
    from mmseg.evaluation import IoUMetric
    metric = IoUMetric(format_only=True, output_dir=str(folder))
    metric.dataset_meta = dict(classes=[str(i) for i in range(150)])
    for path in sorted((root / 'annotations' / 'validation').iterdir()):
        labels = np.asarray(Image.open(path)).astype(np.int64)
        prediction = np.where(labels == OTHER, 149, labels - 1)
        metric.process({}, [
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(prediction)[None]),
                img_path=f'{path.stem}.jpg',
                **meta)
        ])
    metric.evaluate(size=1)


def read_package(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name))))
            for name in archive.namelist()
        }


def test_ground_truth_scores_one(root, tmp_path):
    from mmseg.evaluation import IoUMetric
    predict_ground_truth(root, tmp_path / 'labels', reduce_zero_label=True)
    sizes = read_image_sizes(root / 'images' / 'validation')
    path = tmp_path / 'out' / ade20k_package_name('validation', 'gt')
    summary = write_ade20k_package(tmp_path / 'labels', path, sizes)
    assert summary.num_images == len(sizes) > 10
    assert list(path.parent.iterdir()) == [path]
    assert check_ade20k_package(path, sizes).notes == []

    metric = IoUMetric()
    metric.dataset_meta = dict(classes=[str(i) for i in range(150)])
    maps = read_package(path)
    for name, submitted in maps.items():
        truth = np.asarray(
            Image.open(root / 'annotations' / 'validation' / name))
        known = truth != OTHER
        assert np.array_equal(submitted[known], truth[known])
        assert (submitted[~known] == 150).all()
        reduced = np.where(known, truth.astype(np.int64) - 1, 255)
        metric.process({}, [
            dict(
                pred_sem_seg=dict(
                    data=torch.from_numpy(submitted.astype(np.int64) - 1)),
                gt_sem_seg=dict(data=torch.from_numpy(reduced)))
        ])
    assert metric.evaluate(size=len(maps))['mIoU'] == 100


def test_a_forgotten_shift_is_refused(root, tmp_path):
    predict_ground_truth(root, tmp_path / 'labels')
    sizes = read_image_sizes(root / 'images' / 'validation')
    path = tmp_path / 'out' / 'mine.zip'
    with pytest.raises(match='labels are shifted: .* at 0 '):
        write_ade20k_package(tmp_path / 'labels', path, sizes)
    assert not list(path.parent.iterdir())


SIZES = {f'ADE_test_{i:08d}': (20 + i, 30) for i in range(4)}
FIRST = 'ADE_test_00000000.png'


def encode(labels, mode='L', **kwargs) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.asarray(labels, np.uint8))
    image.convert(mode).save(file, kwargs.pop('format', 'PNG'), **kwargs)
    return file.getvalue()


def label_maps() -> dict:
    rng = np.random.default_rng(0)
    return {
        f'{stem}.png': rng.integers(1, 151, size, np.uint8)
        for stem, size in SIZES.items()
    }


def pack(folder: Path, files: dict) -> Path:
    """Zip label maps or bytes, without any check."""
    path = folder / 'mine.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            if not isinstance(content, bytes):
                content = encode(content)
            archive.writestr(name, content)
    return path


def test_a_good_package_passes(tmp_path):
    path = pack(tmp_path, label_maps())
    assert check_ade20k_package(path, SIZES).num_images == 4
    assert 'not checked without the images' in str(check_ade20k_package(path))


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)


def png_of(width, height, depth, colour, data=b'') -> bytes:
    """A PNG with any header."""
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) +
            chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b''))


def change_all(change):
    return lambda files: files.update({k: change(v) for k, v in files.items()})


def change_first(change):
    return lambda files: files.update({FIRST: change(files[FIRST])})


def with_pixel(value):

    def change(labels):
        labels[3, 4] = value
        return labels

    return change


def rename_first(name):
    return lambda files: files.update({name: files.pop(FIRST)})


BAD = {
    'shifted down':
    (change_all(lambda m: m - 1), 'labels are shifted: they begin at 0'),
    'shifted up':
    (change_all(lambda m: m + 1), 'labels are shifted: they end at 151'),
    'other': (change_first(with_pixel(0)), f'the value 0, .*{FIRST}'),
    'ignored': (change_first(with_pixel(255)), 'the value 255, .*0.2 % of'),
    'class 200': (change_first(with_pixel(200)), 'above 150: .*up to 200'),
    'missing': (lambda files: files.pop(FIRST),
                rf'missing label maps \(of 4 images\): {FIRST}'),
    'unknown': (rename_first('ADE_val_00000001.png'),
                '(?s)missing label maps.*of no image: ADE_val_00000001.png'),
    'network size': (change_first(lambda m: m[:16, :16]),
                     'another size .*16 x 16, the image has 30 x 20'),
    'transposed': (change_first(lambda m: m.T), 'height and width are swapped'),
    'rgb': (change_first(lambda m: encode(m, 'RGB')), 'gray .*8-bit RGB'),
    'rgba': (change_first(lambda m: encode(m, 'RGBA')), 'gray .*8-bit RGBA'),
    'alpha': (change_first(lambda m: encode(m, 'LA')), 'gray with alpha'),
    'palette': (change_first(lambda m: encode(m, 'P')), 'gray .*8-bit palette'),
    '1-bit': (change_first(lambda m: encode(m, '1')), 'gray .*1-bit gray'),
    '16-bit': (change_first(lambda m: png_of(30, 20, 16, 0)), '16-bit gray'),
    'jpeg as png':
    (change_first(lambda m: encode(m, format='JPEG')), f'{FIRST} is a JPEG'),
    'jpg': (rename_first('ADE_test_00000000.jpg'), 'files that are no .png'),
    'text': (change_first(lambda m: b'hello'), f'{FIRST} is no PNG'),
    'empty': (change_first(lambda m: b''), f'{FIRST} is no PNG'),
    'cut': (change_first(lambda m: encode(m)[:200]), 'truncated or damaged'),
    'header only':
    (change_first(lambda m: encode(m)[:33]), 'truncated or damaged'),
    'too few pixels': (change_first(lambda m: png_of(30, 20, 8, 0, b'\0')),
                       'truncated or damaged'),
    'huge': (change_first(lambda m: png_of(10**5, 10**5, 8, 0)),
             'another size .*100000 x 100000'),
    'folder': (rename_first(f'predictions/{FIRST}'), 'wrong zip layout'),
    'outside': (rename_first(f'../{FIRST}'), 'point outside'),
    'mac': (lambda files: files.update({f'__MACOSX/._{FIRST}': b''}),
            'operating system added'),
    'nothing': (lambda files: files.clear(), 'missing label maps .*: 4'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_packages(case, tmp_path):
    change, reason = BAD[case]
    files = label_maps()
    change(files)
    with pytest.raises(match=reason):
        check_ade20k_package(pack(tmp_path, files), SIZES)


@pytest.mark.parametrize('content, reason', [
    (png_of(10**5, 10**5, 8, 0), 'too large to be read'),
    (png_of(0, 0, 8, 0), 'truncated or damaged'),
])
def test_bad_label_maps_without_images(content, reason, tmp_path):
    with pytest.raises(match=reason):
        check_ade20k_package(pack(tmp_path, {FIRST: content}))
    with pytest.raises(match='the package is empty'):
        check_ade20k_package(pack(tmp_path, {}))


@pytest.mark.parametrize('share', [0, .01, .5, .99])
def test_truncated_zip(share, tmp_path):
    path = pack(tmp_path, label_maps())
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])
    reason = 'truncated' if share else 'not a zip file'
    with pytest.raises(match=reason):
        check_ade20k_package(path, SIZES)


def test_damaged_zip(tmp_path):
    path = pack(tmp_path, label_maps())
    content = bytearray(path.read_bytes())
    content[200] ^= 0xff
    path.write_bytes(content)
    with pytest.raises(match=f'damaged in the zip .*{FIRST}'):
        check_ade20k_package(path, SIZES)


def test_an_earlier_package_is_kept(tmp_path):
    labels = tmp_path / 'labels'
    labels.mkdir()
    for name, values in label_maps().items():
        (labels / name).write_bytes(encode(values))
    path = tmp_path / 'out' / 'mine.zip'
    write_ade20k_package(labels, path, SIZES)
    before = path.read_bytes()
    with pytest.raises(match='exists.*--overwrite'):
        write_ade20k_package(labels, path, SIZES)
    (labels / FIRST).unlink()
    with pytest.raises(match='missing label maps'):
        write_ade20k_package(labels, path, SIZES, overwrite=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_bad_image_folders(tmp_path):
    with pytest.raises(match='none does not exist'):
        read_image_sizes(tmp_path / 'none')
    with pytest.raises(match='holds no .jpg or .png'):
        read_image_sizes(tmp_path)
    (tmp_path / 'a.jpg').write_bytes(encode(np.ones((4, 6)), format='JPEG'))
    assert read_image_sizes(tmp_path) == {'a': (4, 6)}
    (tmp_path / 'a.png').write_bytes(encode(np.ones((4, 6))))
    with pytest.raises(match='two images a,'):
        read_image_sizes(tmp_path)
    (tmp_path / 'a.png').rename(tmp_path / 'b.png').write_bytes(b'')
    with pytest.raises(match='cannot read image .*b.png'):
        read_image_sizes(tmp_path)
    with pytest.raises(match='cannot be part of a file name'):
        ade20k_package_name('testing', 'a/b')
