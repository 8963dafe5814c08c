"""Sets in YOLO's and Pascal VOC's formats, of known boxes and outlines."""
import builtins
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from mmhier import apis
from mmhier.cli import convert_data as command
from mmhier.datasets.formats import convert_data
from mmhier.errors import MMHierError
from ..test_tools.conftest import DETECTOR

sv = pytest.importorskip('supervision')

WIDTH, HEIGHT = 100, 50
# A label file by image; 'empty' has none.
YOLO = {
    'a': '1 0.5 0.5 0.2 0.4\n0 0.05 0.1 0.1 0.2 0.9\n',
    'b': '0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n1 0.6 0.6 0.4 0.4\n',
    'empty': None
}
BOXES = {
    'a': [[40, 15, 20, 20], [0, 0, 10, 10]],
    'b': [[10, 10, 40, 20], [40, 20, 40, 20]],
    'empty': []
}
OUTLINE = [10, 10, 50, 10, 50, 30, 10, 30]
VOC = '''<annotation>
  <size><width>100</width><height>50</height><depth>3</depth></size>
  <object><name>dog</name><difficult>1</difficult><bndbox><xmin>1</xmin>
    <ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
  <object><name>cat</name><bndbox><xmin>41</xmin><ymin>16</ymin>
    <xmax>60</xmax><ymax>35</ymax></bndbox></object>
</annotation>
'''


def write_image(path, size=(WIDTH, HEIGHT), turned=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(
        0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def yolo(tmp_path) -> Path:
    root = tmp_path / 'yolo'
    for split in 'train', 'val':
        for name, text in YOLO.items():
            write_image(root / 'images' / split / f'{name}.jpg')
            if text is not None:
                label = root / 'labels' / split / f'{name}.txt'
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(text)
    (root / 'data.yaml').write_text('train: images/train\nval: images/val\n'
                                    'names: {1: dog, 0: cat}\n')
    return root


@pytest.fixture
def voc(tmp_path) -> Path:
    root = tmp_path / 'voc'
    for split, name in ('train', 'a'), ('val', 'b'):
        write_image(root / 'JPEGImages' / f'{name}.jpg')
        listing = root / 'ImageSets' / 'Main' / f'{split}.txt'
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(f'{name}\n')
        label = root / 'Annotations' / f'{name}.xml'
        label.parent.mkdir(exist_ok=True)
        label.write_text(VOC)
    return root


def read(out, split='train'):
    path = Path(out) / 'annotations' / f'instances_{split}2017.json'
    return json.loads(path.read_text())


def test_yolo(yolo, tmp_path):
    warnings = []
    out = tmp_path / 'coco'
    convert_data('yolo', str(yolo), str(out), warn=warnings.append)
    content = read(out)
    assert content['categories'] == [
        dict(id=1, name='cat'), dict(id=2, name='dog')
    ]
    assert [image['id'] for image in content['images']] == [1, 2, 3]
    annotations = content['annotations']
    assert [entry['id'] for entry in annotations] == [1, 2, 3, 4]
    assert [entry['category_id'] for entry in annotations] == [2, 1, 1, 2]
    for image in content['images']:
        assert (image['width'], image['height']) == (WIDTH, HEIGHT)
        assert (out / 'train2017' / image['file_name']).is_file()
        name = Path(image['file_name']).stem
        boxes = [
            entry['bbox'] for entry in annotations
            if entry['image_id'] == image['id']
        ]
        np.testing.assert_allclose(
            np.array(boxes).reshape(-1, 4),
            np.array(BOXES[name]).reshape(-1, 4),
            atol=2e-3)
    np.testing.assert_allclose(annotations[2]['segmentation'][0], OUTLINE)
    assert annotations[2]['area'] == pytest.approx(800)
    # A box in a set of outlines: the box is the mask.
    assert len(annotations[0]['segmentation'][0]) == 8
    assert [line.split(':')[0]
            for line in warnings] == ['train', 'train'] + ['val'] * 2
    assert '1 of 3 images have no label file' in warnings[0]
    assert '3 of 4 objects have a box and no outline' in warnings[1]


def test_yolo_boxes_are_those_of_supervision(yolo, tmp_path):
    for split in 'train', 'val':
        label = yolo / 'labels' / split / 'b.txt'
        label.write_text('0 0.3 0.4 0.21 0.33\n')
    convert_data('yolo', str(yolo), str(tmp_path / 'ours'), warn=str)
    sv.DetectionDataset.from_yolo(
        str(yolo / 'images/train'), str(yolo / 'labels/train'),
        str(yolo / 'data.yaml')).as_coco(
            annotations_path=str(tmp_path / 'theirs.json'))
    theirs = json.loads((tmp_path / 'theirs.json').read_text())
    names = {image['id']: image['file_name'] for image in theirs['images']}

    def objects(content, names):
        return sorted((names[entry['image_id']], entry['category_id'],
                       *np.round(entry['bbox'], 2).tolist())
                      for entry in content['annotations'])

    ours = read(tmp_path / 'ours')
    assert 'segmentation' not in ours['annotations'][0]
    assert objects(ours, {i['id']: i['file_name']
                          for i in ours['images']}) == objects(theirs, names)


def test_voc(voc, tmp_path):
    out = tmp_path / 'coco'
    convert_data('voc', str(voc), str(out), copy_images=True)
    content = read(out, 'val')
    assert [c['name'] for c in content['categories']] == ['cat', 'dog']
    first, second = content['annotations']
    # Pixels 1 to 10 are the first ten.
    assert first['bbox'] == [0, 0, 10, 20] and first['iscrowd'] == 1
    assert second['bbox'] == [40, 15, 20, 20] and second['iscrowd'] == 0
    assert (first['category_id'], second['category_id']) == (2, 1)
    assert (out / 'val2017/b.jpg').is_file()
    assert not (out / 'val2017').is_symlink()


def test_outlines_of_voc_and_xml_beside_images(tmp_path):
    polygon = '<polygon><x1>1</x1><y1>1</y1><x2>11</x2><y2>1</y2><x3>11</x3>' \
        '<y3>21</y3></polygon></object>'
    for split in 'train', 'valid':
        write_image(tmp_path / split / 'a.png')
        (tmp_path / split / 'a.xml').write_text(
            VOC.replace('</object>', polygon))
    convert_data('voc', str(tmp_path), str(tmp_path / 'out'))
    first, _ = read(tmp_path / 'out', 'val')['annotations']
    assert first['segmentation'] == [[0, 0, 10, 0, 10, 20]]
    assert first['area'] == 100


def test_turned_images_have_the_size_that_is_loaded(yolo, tmp_path):
    write_image(yolo / 'images/train/a.jpg', (HEIGHT, WIDTH), turned=True)
    convert_data('yolo', str(yolo), str(tmp_path / 'out'), warn=str)
    image = read(tmp_path / 'out')['images'][0]
    assert (image['width'], image['height']) == (WIDTH, HEIGHT)


def test_lists_of_images(yolo, tmp_path):
    names = [f'./images/train/{name}.jpg' for name in 'ab']
    (yolo / 'train.txt').write_text('\n'.join(names))
    (yolo / 'data.yaml').write_text(
        f'path: {yolo}\ntrain: train.txt\nval: ../images/val\n'
        'names: [cat, dog]\nnc: 2\n')
    convert_data('yolo', str(yolo / 'data.yaml'), str(tmp_path / 'o'), warn=str)
    assert len(read(tmp_path / 'o')['images']) == 2
    assert len(read(tmp_path / 'o', 'val')['images']) == 3


@pytest.mark.parametrize('label, message', [
    ('2 0.5 0.5 0.1 0.1',
     'a.txt, line 1: class 2 is none of the 2 names of data.yaml'),
    ('\n0 50 20 10 10', 'a.txt, line 2: 50 20 10 10 reaches out of the image'),
    ('0 0.5 0.5 0.1', 'a.txt, line 1: Invalid YOLO annotation line'),
    ('0 0.5 nan 0.1 0.1', 'a.txt, line 1: Invalid box'),
])
def test_mistakes_in_labels_are_named(yolo, tmp_path, label, message):
    (yolo / 'labels/train/a.txt').write_text(label)
    with pytest.raises(MMHierError, match=message):
        convert_data('yolo', str(yolo), str(tmp_path / 'out'))
    assert not list((tmp_path / 'out').rglob('*.json'))


@pytest.mark.parametrize('text, message', [
    ('names: [cat]', 'names no images: expected train, val or test'),
    ('train: images/train', 'has no names: expected a list of classes'),
    ('train: gone\nnames: [cat, dog]', 'train: gone is neither a folder'),
    ('train: images\nnames: [cat]\nnc: 2', 'nc=2, but names has 1 classes'),
    ('train: images\nnames: {1: cat}', r'expected the labels 0, 1, 2, \.\.\.'),
])
def test_mistakes_in_data_yaml_are_named(yolo, tmp_path, text, message):
    (yolo / 'data.yaml').write_text(text)
    with pytest.raises(MMHierError, match=message):
        convert_data('yolo', str(yolo), str(tmp_path / 'out'))


def test_mistakes_in_voc_are_named(voc, tmp_path):
    for text, message in [
        (VOC.replace('<xmin>1</xmin>', ''), "a.xml: Missing 'xmin'"),
        (VOC.replace('<width>100', '<width>90'), 'but its annotations are for'),
        (VOC[:90], 'a.xml is not readable XML'),
    ]:
        (voc / 'Annotations/a.xml').write_text(text)
        with pytest.raises(MMHierError, match=message):
            convert_data('voc', str(voc), str(tmp_path / 'out'))
    with pytest.raises(MMHierError, match='is not laid out as Pascal VOC'):
        convert_data('voc', str(tmp_path), str(tmp_path / 'out'))


def test_command_does_not_overwrite(yolo, tmp_path, capsys):
    out = str(tmp_path / 'out')
    command.main(['yolo', str(yolo), out])
    assert '3 images, 4 objects' in capsys.readouterr().out
    with pytest.raises(MMHierError, match='exists: choose another folder'):
        command.main(['yolo', str(yolo), out])
    command.main(['yolo', str(yolo), out, '--overwrite'])


def test_missing_supervision_is_named(yolo, tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'supervision':
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(MMHierError, match=r'pip install "mmhier\[supervision'):
        convert_data('yolo', str(yolo), str(tmp_path / 'out'))


@pytest.mark.slow
@pytest.mark.parametrize('data_format', ['yolo', 'voc'])
def test_train_and_check_by_data_format(request, tmp_path, data_format):
    root = str(request.getfixturevalue(data_format))
    options = {
        'train_cfg':
        dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2)
    }
    if data_format == 'voc':
        with pytest.raises(MMHierError, match='has no segmentation'):
            apis.train(
                DETECTOR,
                data_root=root,
                data_format='voc',
                work_dir=str(tmp_path / 'run'))
        return
    runner = apis.train(
        DETECTOR,
        data_root=root,
        data_format=data_format,
        work_dir=str(tmp_path / 'run'),
        seed=0,
        cfg_options=options)
    assert runner.iter == 2
    assert runner.train_dataloader.dataset.metainfo['classes'] == ('cat', 'dog')
    assert runner.model.roi_head.bbox_head.num_classes == 2
    findings = apis.check_config(
        DETECTOR, data_root=root, data_format=data_format)
    assert not [f for f in findings if f.level == 'error'], findings
