"""Data that cannot be used is named before anything is built."""
import json
import re
import shutil

import pytest
from mmhier.apis import MMHierError, check_data, load_config
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
    with pytest.raises(
            MMHierError, match=f'data_root={root} is not a folder.*'
            '--data-root'):
        check()


def test_missing_annotation_file(check, root):
    path = root / 'annotations' / 'instances_val2017.json'
    path.unlink()
    with pytest.raises(
            MMHierError, match=f'val_dataloader.*ann_file={path} does not'):
        check()
    check(('train', ))


def test_missing_annotation_file_of_the_evaluator(check):
    key = 'val_evaluator.ann_file'
    with pytest.raises(MMHierError, match=f'{key}=nope.json does not exist'):
        check(**{key: 'nope.json'})


def test_missing_image_folder(check, root):
    shutil.rmtree(root / 'train2017')
    with pytest.raises(MMHierError, match='train2017/ is not a folder'):
        check()


@pytest.mark.parametrize('content', [b'{"images": [', b'', b'\xff\xd8\xff'])
def test_unreadable_json(check, root, content):
    path = root / 'annotations' / 'instances_train2017.json'
    path.write_bytes(content)
    with pytest.raises(MMHierError, match=f'{path} is not readable json'):
        check()


@pytest.mark.parametrize('key', ['categories', 'images'])
def test_json_without(check, root, key):
    edit(root, lambda content: content.pop(key))
    with pytest.raises(MMHierError, match=f'train2017.json has no {key}'):
        check()


@pytest.mark.parametrize('change', [
    dict(width=None),
    dict(height='64'),
    dict(width=0),
    dict(height=-1),
    dict(height=float('nan')),
    dict(file_name=3)
])
def test_image_without_size_or_name(check, root, change):
    edit(root, lambda content: content['images'][2].update(change))
    (name, value), = change.items()
    with pytest.raises(
            MMHierError,
            match=re.escape('instances_train2017.json: image 3 has ') +
            f'.*{name}={value!r}'):
        check()


def test_json_of_another_kind(check, root):
    (root / 'annotations' / 'instances_train2017.json').write_text('[1]')
    with pytest.raises(MMHierError, match='has no images: expected COCO'):
        check()


@pytest.mark.parametrize('kind, key', [('images', 'height'),
                                       ('annotations', 'area'),
                                       ('categories', 'name')])
def test_incomplete_entry(check, root, kind, key):
    edit(root, lambda content: content[kind][2].pop(key))
    with pytest.raises(MMHierError, match=rf'{kind}\[2\] lacks {key}'):
        check()


def test_missing_images(check, root):
    (root / 'train2017' / '001.jpg').unlink()
    (root / 'train2017' / '004.jpg').unlink()
    with pytest.raises(
            MMHierError,
            match=f'2 of the 6 images in .* such as {root}/train2017/001.jpg'):
        check()


def test_classes_of_another_dataset(check):
    """mmdet's own message would be 'need at least one array'."""
    with pytest.raises(
            MMHierError,
            match='80 classes, of which .*lacks 80: person, .*Its own are box,'
            r' bar, tile: .*--classes auto.*metainfo=dict\(classes'):
        check(**{'train_dataloader.dataset.metainfo': dict(_delete_=True)})


def test_one_class_too_many(check):
    classes = ('box', 'bar', 'tile', 'ring')
    with pytest.raises(MMHierError, match='lacks 1: ring'):
        check(**{'train_dataloader.dataset.metainfo.classes': classes})


def test_classes_in_another_order(check):
    classes = ('tile', 'box', 'bar')
    with pytest.raises(MMHierError, match='another order'):
        check(**{'train_dataloader.dataset.metainfo.classes': classes})


def test_fewer_classes_than_the_json_are_allowed(check, capfd):
    classes = ('box', 'tile')
    check(
        ('train', ), **{
            'train_dataloader.dataset.metainfo.classes': classes,
            'model.roi_head.bbox_head.num_classes': 2,
            'model.roi_head.mask_head.num_classes': 2
        })
    assert 'leaves out 1 of the 3 categories' in capfd.readouterr().out


@pytest.mark.parametrize('change, message', [
    (dict(category_id=11),
     'annotation 2 has category_id=11, which is not among the categories: add '
     'the category, or remove the annotation'),
    (dict(bbox=[1, 2, float('nan'), 4]),
     'annotation 2 has bbox=[1, 2, nan, 4]: expected four finite numbers, x, '
     'y, width and height in pixels'),
    (dict(bbox=[1, 2, 3]), 'has bbox=[1, 2, 3]: expected four'),
    (dict(bbox='1 2 3 4'), 'has bbox=1 2 3 4: expected four'),
    (dict(area='big'), 'has area=big: expected a finite number of pixels'),
    (dict(segmentation=[]),
     'has no segmentation, which masks are trained with'),
    (dict(segmentation=[[1, 2, 3, 4, 'a', 6]]),
     'has a segmentation that is no list of polygons'),
    (dict(id=1), 'ids of annotations are not unique, 1 occurs 2 times'),
])
def test_annotation_that_stops_training(check, root, change, message):
    edit(root, lambda content: content['annotations'][1].update(change))
    with pytest.raises(MMHierError, match=re.escape(message)) as error:
        check()
    path = root / 'annotations' / 'instances_train2017.json'
    assert str(error.value).startswith(f'annotation file {path}: ')


@pytest.mark.parametrize('kind, change, message', [
    ('images', dict(id=1), 'ids of images are not unique, 1 occurs 2'),
    ('categories', dict(name='box'),
     'names of categories are not unique, box occurs 2'),
])
def test_entries_that_occur_twice(check, root, kind, change, message):
    edit(root, lambda content: content[kind][1].update(change))
    with pytest.raises(MMHierError, match=message):
        check()


@pytest.mark.parametrize('change, kind', [
    (dict(bbox=[1, 2, 0, 4]),
     'have a box of less than a pixel or no area, so they are left out'),
    (dict(bbox=[1, 2, -3, 4]),
     'have a box of less than a pixel or no area, so they are left out'),
    (dict(area=0),
     'have a box of less than a pixel or no area, so they are left out'),
    (dict(bbox=[96, 2, 4, 4]),
     'have a box outside of their image, so they are left out'),
    (dict(bbox=[90, 2, 20, 4]),
     'have a box that reaches out of its image and is clipped'),
    (dict(image_id=77), 'belong to no image, so they are left out'),
    (dict(segmentation=[[1, 2, 3, 4]]),
     'have only polygons of fewer than 3 points, so they are ignored'),
    (dict(bbox=[1, 2, 8, 7], segmentation=[[1, 2, 3, 4], [1, 2, 9, 4, 5, 9]]),
     'have a polygon of fewer than 3 points, which is left out'),
])
def test_annotations_that_are_left_out_are_counted(check, root, change, kind,
                                                   capfd):

    def change_two(content):
        content['annotations'][1].update(change)
        content['annotations'][3].update(change)

    edit(root, change_two)
    check()
    path = root / 'annotations' / 'instances_train2017.json'
    warnings = [
        line for line in capfd.readouterr().out.splitlines()
        if 'warning: ' in line
    ]
    assert len(warnings) == 1
    assert warnings[0].endswith(f'warning: {path}: 2 of 6 annotations {kind}, '
                                'such as annotation 2')


def test_sound_annotations_give_no_warning(check, capfd):
    """A crowd's RLE among them."""
    check()
    assert 'warning' not in capfd.readouterr().out


def test_boxes_suffice_where_no_masks_are_loaded(check, root):
    edit(root, lambda content: content['annotations'][1].pop('segmentation'))
    check(('train', ),
          **{'train_dataloader.dataset.pipeline.1.with_mask': False})


@pytest.mark.parametrize(
    'options, key',
    [
        ({
            'model.roi_head.mask_head.num_classes': 80
        }, 'model.roi_head.mask_head.num_classes'),
        # mmdet's box head has 80 classes by default.
        ({
            'model.roi_head.bbox_head.num_classes': None
        }, 'model.roi_head.bbox_head.num_classes'),
    ])
def test_num_classes_of_another_dataset(check, options, key):
    with pytest.raises(
            MMHierError,
            match=re.escape(
                f'{key}=80 disagrees with the 3 classes of train_dataloader.'
                f'dataset: set {key}=3, or both with --classes')):
        check(**options)


def test_num_classes_of_a_proposal_network_is_its_own(check):
    check(**{'model.rpn_head.num_classes': 1})


def test_unknown_dataset_type(check):
    with pytest.raises(MMHierError, match='dataset type CoccoDataset is not'):
        check(**{'train_dataloader.dataset.type': 'CoccoDataset'})


@pytest.fixture
def check_folders(folders_root, tmp_path):
    root = shutil.copytree(folders_root, tmp_path / 'folders')

    def check_config(**options):
        cfg = load_config(
            str(CONFIGS / 'classifier.py'),
            data_root=str(root),
            work_dir=str(tmp_path / 'work'),
            cfg_options=options)
        check_data(cfg, ('train', 'val'))

    check_config.root = root
    return check_config


def test_more_class_folders_than_classes(check_folders):
    shutil.copytree(check_folders.root / 'train' / 'dark',
                    check_folders.root / 'train' / 'grey')
    with pytest.raises(
            MMHierError,
            match='model.head.num_classes=2 disagrees '
            'with the 3 classes of train_dataloader.dataset'):
        check_folders()


def test_class_folders_instead_of_imagenet(check_folders):
    with pytest.raises(
            MMHierError,
            match=re.escape(
                f'train_dataloader.dataset: {check_folders.root}/train holds 2 '
                'class folders, but ImageNet has 1000 classes: take the names '
                'of the folders with --classes auto')):
        check_folders(**{'train_dataloader.dataset.type': 'ImageNet'})


def test_class_folders_in_another_order(check_folders):
    with pytest.raises(
            MMHierError,
            match='numbered by alphabet, bright, dark, '
            '..., but the classes come in another order, dark'):
        check_folders(
            **{'train_dataloader.dataset.metainfo.classes': ('dark', 'bright')})


def test_other_class_folders_in_validation(check_folders):
    (check_folders.root / 'val' / 'dark').rename(check_folders.root / 'val' /
                                                 'night')
    with pytest.raises(
            MMHierError,
            match='hold other class folders, such as '
            'dark, so labels would be mixed up'):
        check_folders()


def test_no_class_folders(check_folders):
    shutil.rmtree(check_folders.root / 'train')
    (check_folders.root / 'train').mkdir()
    with pytest.raises(
            MMHierError, match='train is not a folder of class fold'):
        check_folders()


@pytest.mark.parametrize('line, label',
                         [('dark/dark_1.jpg 2', '2'),
                          ('dark/dark_1.jpg', 'dark/dark_1.jpg')])
def test_label_outside_the_classes(check_folders, line, label):
    path = check_folders.root / 'labels.txt'
    path.write_text('bright/bright_0.jpg 0\n' + line + '\n')
    with pytest.raises(
            MMHierError,
            match=re.escape(
                f"{path}, line 2: label '{label}' is none of the classes, "
                'expected 0 to 1')):
        check_folders(
            **{
                'train_dataloader.dataset.ann_file': 'labels.txt',
                'train_dataloader.dataset.metainfo.classes': ('bright', 'dark')
            })


@pytest.mark.parametrize('name, folder', [('segmentor', 'images/training'),
                                          ('classifier', 'train')])
def test_missing_folder_in_other_packages(name, folder, tmp_path):
    pytest.importorskip(dict(segmentor='mmseg', classifier='mmpretrain')[name])
    cfg = load_config(
        str(CONFIGS / f'{name}.py'),
        data_root=str(tmp_path),
        work_dir=str(tmp_path / 'work'))
    with pytest.raises(
            MMHierError, match=f'{tmp_path}/{folder} is not a folder'):
        check_data(cfg, ('train', ))
