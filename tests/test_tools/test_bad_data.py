"""Data that cannot be used is named before anything is built."""
import json
import shutil

import pytest
from mmhier.apis import UserError, check_data, load_config
from .conftest import CONFIGS, DETECTOR


@pytest.fixture
def root(coco_root, tmp_path):
    """A copy of the data to spoil."""
    return shutil.copytree(coco_root, tmp_path / 'coco')


@pytest.fixture
def check(root, tmp_path):

    def check_config(phases=('train', 'val'), config=DETECTOR, **options):
        cfg = load_config(
            config,
            data_root=str(root),
            work_dir=str(tmp_path / 'work'),
            cfg_options=options)
        check_data(cfg, phases)

    return check_config


def edit(root, change, split='train'):
    path = root / 'annotations' / f'instances_{split}2017.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_good_data_passes(check):
    check(('train', 'val', 'test'))


def test_missing_root(check, root):
    shutil.rmtree(root)
    with pytest.raises(UserError, match=f'data_root={root} is not a folder.*'
                       '--data-root'):
        check()


def test_missing_annotation_file(check, root):
    path = root / 'annotations' / 'instances_val2017.json'
    path.unlink()
    with pytest.raises(UserError,
                       match=f'val_dataloader.*ann_file={path} does not'):
        check()
    check(('train', ))


def test_missing_annotation_file_of_the_evaluator(check):
    key = 'val_evaluator.ann_file'
    with pytest.raises(UserError, match=f'{key}=nope.json does not exist'):
        check(**{key: 'nope.json'})


def test_missing_image_folder(check, root):
    shutil.rmtree(root / 'train2017')
    with pytest.raises(UserError, match='train2017/ is not a folder'):
        check()


@pytest.mark.parametrize('content', [b'{"images": [', b'', b'\xff\xd8\xff'])
def test_unreadable_json(check, root, content):
    path = root / 'annotations' / 'instances_train2017.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'{path} is not readable json'):
        check()


@pytest.mark.parametrize('key', ['categories', 'images'])
def test_json_without(check, root, key):
    edit(root, lambda content: content.pop(key))
    with pytest.raises(UserError, match=f'train2017.json has no {key}'):
        check()


def test_json_of_another_kind(check, root):
    (root / 'annotations' / 'instances_train2017.json').write_text('[1]')
    with pytest.raises(UserError, match='has no images: expected COCO'):
        check()


@pytest.mark.parametrize('kind, key', [('images', 'height'),
                                       ('annotations', 'area'),
                                       ('categories', 'name')])
def test_incomplete_entry(check, root, kind, key):
    edit(root, lambda content: content[kind][2].pop(key))
    with pytest.raises(UserError, match=rf'{kind}\[2\] lacks {key}'):
        check()


def test_missing_images(check, root):
    (root / 'train2017' / '001.jpg').unlink()
    (root / 'train2017' / '004.jpg').unlink()
    with pytest.raises(
            UserError,
            match=f'2 of the 6 images in .* such as {root}/train2017/001.jpg'):
        check()


def test_classes_of_another_dataset(check):
    """mmdet's own message would be 'need at least one array'."""
    with pytest.raises(
            UserError,
            match='80 classes, of which .*lacks 80: person, .*Its own are box,'
            r' bar, tile: .*metainfo=dict\(classes'):
        check(**{'train_dataloader.dataset.metainfo': dict(_delete_=True)})


def test_one_class_too_many(check):
    classes = ('box', 'bar', 'tile', 'ring')
    with pytest.raises(UserError, match='lacks 1: ring'):
        check(**{'train_dataloader.dataset.metainfo.classes': classes})


def test_classes_in_another_order(check):
    classes = ('tile', 'box', 'bar')
    with pytest.raises(UserError, match='another order'):
        check(**{'train_dataloader.dataset.metainfo.classes': classes})


def test_fewer_classes_than_the_json_are_allowed(check, capfd):
    classes = ('box', 'tile')
    check(**{'train_dataloader.dataset.metainfo.classes': classes})
    assert 'leaves out 1 of the 3 categories' in capfd.readouterr().out


@pytest.mark.parametrize('name, folder', [('segmentor', 'images/training'),
                                          ('classifier', 'train')])
def test_missing_folder_in_other_packages(name, folder, tmp_path):
    pytest.importorskip(dict(segmentor='mmseg', classifier='mmpretrain')[name])
    cfg = load_config(
        str(CONFIGS / f'{name}.py'),
        data_root=str(tmp_path),
        work_dir=str(tmp_path / 'work'))
    with pytest.raises(UserError, match=f'{tmp_path}/{folder} is not a folder'
                       ):
        check_data(cfg, ('train', ))
