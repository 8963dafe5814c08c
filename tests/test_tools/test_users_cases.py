"""Cases from users' days: each is found before the training, or just works."""
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from mmhier import apis
from mmhier.apis import MMHierError, check_data, load_config
from mmhier.evaluation.dry_run import dry_evaluate
from .conftest import CONFIGS, DETECTOR

CLASSES = ('box', 'bar', 'tile')


def write(root: Path, change=lambda content: None, splits=('train', 'val')):
    """COCO instances of four images with a rectangle each."""
    for split in (f'{s}2017' for s in splits):
        content = dict(
            images=[],
            annotations=[],
            categories=[
                dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)
            ])
        for folder in (root / split, root / 'annotations'):
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(1, 5):
            image = np.full((64, 96, 3), 30, np.uint8)
            x, y, w, h = 4 * i, 3 * i, 40, 34
            image[y:y + h, x:x + w] = 255
            cv2.imwrite(f'{root}/{split}/{i}.jpg', image)
            content['images'].append(
                dict(id=i, file_name=f'{i}.jpg', width=96, height=64))
            content['annotations'].append(
                dict(
                    id=i,
                    image_id=i,
                    category_id=1 + i % 3,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
        change(content)
        path = root / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(content))
    return root


def each(change):
    """Change of every annotation."""

    def change_all(content):
        for annotation in content['annotations']:
            change(annotation)

    return change_all


def evaluate(root, tmp_path, config=DETECTOR, check=True, **options):
    """Warnings and notes of the checks of data and evaluator."""
    options = {k.replace('__', '.'): v for k, v in options.items()}
    cfg = load_config(
        config,
        data_root=str(root),
        work_dir=str(tmp_path / 'work'),
        cfg_options=options)
    lines: list[str] = []
    if check:
        check_data(cfg, ('train', 'val'), warn=lines.append)
    return lines + dry_evaluate(cfg, 'val')


def test_sound_data(tmp_path):
    notes = evaluate(write(tmp_path / 'data'), tmp_path)
    note, = notes
    assert 'bbox_mAP 1.000' in note and 'segm_mAP 1.000' in note


# Changes of each annotation, and the scores that ought to be unchanged.
IDS = {
    'strings': lambda a: f'a{a["id"]}',
    'negative': lambda a: -a['id'],
    'fractions': lambda a: a['id'] + 0.5,
    'huge': lambda a: a['id'] + 2**63,
    'from 0': lambda a: str(a['id'] - 1),
}


@pytest.mark.parametrize('backend', ['pycocotools', 'faster'])
@pytest.mark.parametrize('ids', IDS)
def test_ids_of_any_kind(ids, backend, tmp_path):
    root = write(tmp_path / 'data', each(lambda a: a.update(id=IDS[ids](a))))
    note, = evaluate(root, tmp_path, val_evaluator__backend=backend)
    assert 'bbox_mAP 1.000' in note


def crowd_string(annotation):
    annotation['iscrowd'] = '0'


def turned_rle(annotation):
    annotation['segmentation'] = dict(size=[96, 64], counts=[0, 64 * 96])


def no_counts(annotation):
    annotation['segmentation'] = dict(size=[64, 96], counts=None)


def short_rle(annotation):
    annotation['segmentation'] = dict(size=[64, 96], counts=[10, 20])


def image_id_string(annotation):
    annotation['image_id'] = str(annotation['image_id'])


def normalised(annotation):
    annotation['bbox'] = [0.1, 0.1, 0.4, 0.5]


@pytest.mark.parametrize('change, message', [
    (crowd_string, "annotation 1 has iscrowd='0': expected 0 or 1"),
    (turned_rle, r'annotation 1 has RLE of size=\[96, 64\] \(height, width\), '
     r'but its image is 96x64 pixels .* expected size=\[64, 96\]'),
    (no_counts, 'annotation 1 has RLE with counts=None'),
    (short_rle, 'annotation 1 has RLE whose counts do not add up to the 6144'),
    (lambda a: a.update(iscrowd=1), 'all 4 annotations are left out.*4 have '
     'iscrowd=1'),
    (lambda a: a.update(ignore=1), 'all 4 annotations are left out.*4 have '
     'ignore=1'),
    (image_id_string, 'all 4 annotations are left out.*belong to no image.*'
     "type int in images, such as 1, and str in annotations, .*'1'"),
    (normalised, 'all 4 annotations are left out.*fractions of the image'),
])
def test_refused_annotations(change, message, tmp_path):
    root = write(tmp_path / 'data', each(change))
    with pytest.raises(MMHierError, match=message):
        evaluate(root, tmp_path)


def test_rle_is_left_out_without_poly2mask(tmp_path):

    def as_rle(annotation):
        annotation['segmentation'] = dict(
            size=[64, 96], counts=[0, 64 * 48, 64 * 48])

    root = write(tmp_path / 'data', each(as_rle))
    assert len(evaluate(root, tmp_path)) == 1
    with pytest.raises(MMHierError, match='all 4 .*RLE, which poly2mask=False'):
        evaluate(root, tmp_path,
                 **{'train_dataloader.dataset.pipeline.1.poly2mask': False})


@pytest.mark.parametrize('crowd', [None, False, 'missing'])
def test_no_iscrowd(crowd, tmp_path):

    def change(annotation):
        annotation['iscrowd'] = crowd
        if crowd == 'missing':
            del annotation['iscrowd']

    note, = evaluate(write(tmp_path / 'data', each(change)), tmp_path)
    assert 'bbox_mAP 1.000' in note


def test_more_than_half_left_out(tmp_path):

    def change(content):
        for annotation in content['annotations'][:3]:
            annotation['ignore'] = 1

    lines = evaluate(write(tmp_path / 'data', change), tmp_path)
    assert 'MORE THAN HALF of the annotations, 3 of 4, are' in lines[0]
    # They are scored, so that a perfect model cannot reach 1.
    assert '3 objects have ignore=1, so they are left out in load' in lines[-1]


def test_classes_without_annotations(tmp_path):

    def change(content):
        for annotation in content['annotations']:
            annotation['category_id'] = 1

    warning, _ = evaluate(write(tmp_path / 'data', change), tmp_path)
    assert '2 of 3 classes have no annotation' in warning
    assert 'bar, tile' in warning


def test_evaluator_of_other_ids(tmp_path):
    root = write(tmp_path / 'data')

    def shift(content):
        for image in content['images']:
            image['id'] += 10
        for annotation in content['annotations']:
            annotation['image_id'] += 10

    other = write(tmp_path / 'other', shift)
    path = str(other / 'annotations' / 'instances_val2017.json')
    with pytest.raises(
            MMHierError,
            match=f'val_evaluator.ann_file={path} has no image with the id 1 '
            '.*has to be the annotation file of the dataset'):
        evaluate(root, tmp_path, val_evaluator__ann_file=path)


@pytest.mark.parametrize('change, message', [
    (lambda c: c['annotations'][0].update(bbox=[50, 20, 9, 9]),
     'has 1 objects in image 1, and the dataset 1 or others'),
    (lambda c: c['annotations'].pop(), 'has 0 objects in image 4'),
    (lambda c: c['images'][0].update(file_name='4.jpg'),
     'has 4.jpg with the id 1 of .*1.jpg'),
    (each(lambda a: a.update(segmentation=[[0, 0, 9, 0, 9, 9]])),
     'perfect predictions score segm_mAP 0.000, .*1 is expected'),
    (lambda c: c['categories'].pop(),
     r'val_evaluator.ann_file=\S+ has 2 of the 3 classes of the dataset'),
])
def test_evaluator_of_the_same_ids(change, message, tmp_path):
    root = write(tmp_path / 'data')
    path = write(tmp_path / 'other', change) / 'annotations'
    with pytest.raises(MMHierError, match=message):
        evaluate(
            root,
            tmp_path,
            val_evaluator__ann_file=str(path / 'instances_val2017.json'))


def test_concatenated_sets_of_the_same_ids(tmp_path):
    root = write(tmp_path / 'data')
    config = tmp_path / 'config.py'
    config.write_text(f'''
_base_ = {DETECTOR!r}
one = dict(
    type='CocoDataset', data_root='data/coco/', test_mode=True, pipeline=[],
    metainfo=dict(classes=('box', 'bar', 'tile')))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='ConcatDataset', ignore_keys=['dataset_type'],
    datasets=[
        dict(ann_file='annotations/instances_val2017.json',
             data_prefix=dict(img='val2017/'), **one),
        dict(ann_file='annotations/instances_train2017.json',
             data_prefix=dict(img='train2017/'), **one)]))
''')
    with pytest.raises(MMHierError, match='have the same id 1'):
        evaluate(root, tmp_path, str(config))


@pytest.mark.parametrize('kind', ['mmhier.CocoMetric', 'mmdet.CocoMetric'])
def test_part_of_a_set(kind, tmp_path):
    root = write(tmp_path / 'data')
    options = dict(val_dataloader__dataset__indices=2, val_evaluator__type=kind)
    if kind == 'mmdet.CocoMetric':
        with pytest.raises(MMHierError, match='scores 2 images that the data'):
            evaluate(root, tmp_path, **options)
    else:
        note, = evaluate(root, tmp_path, **options)
        assert 'on 2 images score bbox_mAP 1.000' in note


def test_more_objects_than_are_scored(tmp_path):

    def change(content):
        first = content['annotations'][0]
        content['annotations'] += [dict(first, id=i) for i in range(10, 130)]

    note, = evaluate(write(tmp_path / 'data', change), tmp_path)
    assert '21 objects are beyond the 100' in note


@pytest.mark.parametrize('segmentation', [None, [], 'missing'])
def test_masks_to_evaluate(segmentation, tmp_path):

    def change(content):
        content['annotations'][1]['segmentation'] = segmentation
        if segmentation == 'missing':
            del content['annotations'][1]['segmentation']

    root = write(tmp_path / 'data')
    write(root, change, ('val', ))
    with pytest.raises(
            MMHierError, match='val2017.json: annotation 2 has no segment'):
        evaluate(root, tmp_path)


@pytest.mark.parametrize('options, message', [
    ({
        'default_hooks.checkpoint.save_best': 'bbox_mAP'
    },
     'default_hooks.checkpoint.save_best=bbox_mAP: .*expected coco/bbox_mAP$'),
    ({
        'custom_hooks': [dict(type='EarlyStoppingHook', monitor='mAP')]
    }, 'custom_hooks.0.monitor=mAP: .*expected coco/bbox_mAP, '),
    ({
        'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='loss')]
    }, 'param_scheduler.0.monitor=loss: .*no such metric'),
])
def test_names_of_monitored_metrics(options, message, tmp_path):
    root = write(tmp_path / 'data')
    with pytest.raises(MMHierError, match=message):
        evaluate(root, tmp_path, **options)
    sound = {'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'}
    assert evaluate(root, tmp_path, **sound)


@pytest.mark.parametrize('classes, message', [
    ('box', r"metainfo.classes='box' is a string, .* written \('box',\)"),
    ((' box', 'bar', 'tile'), "lacks 1: ' box'. Its own are box, bar"),
])
def test_spelling_of_classes(classes, message, tmp_path):
    with pytest.raises(MMHierError, match=message):
        evaluate(
            write(tmp_path / 'data'),
            tmp_path,
            train_dataloader__dataset__metainfo__classes=classes)


SEGMENTOR = str(CONFIGS / 'segmentor.py')


@pytest.fixture
def masks(masks_root, tmp_path) -> Path:
    """A copy of the masks to change."""
    return shutil.copytree(masks_root, tmp_path / 'masks')


def relabel(root: Path, values: dict, splits=('training', 'validation')):
    """Replace labels in all masks."""
    for split in splits:
        for path in (root / 'annotations' / split).iterdir():
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            new = mask.copy()
            for old, value in values.items():
                new[mask == old] = value
            cv2.imwrite(str(path), new)


def test_black_and_white_masks(masks, tmp_path):
    relabel(masks, {1: 255})
    lines = evaluate(masks, tmp_path, SEGMENTOR)
    warnings = [line for line in lines if 'occur in none of 2 masks' in line]
    assert len(warnings) == 2
    assert '1 of 2 classes' in warnings[0] and 'labels 1. Masks hold 0 and ' \
        '255 alone' in warnings[0]


def test_sound_masks(masks, tmp_path):
    note, = evaluate(masks, tmp_path, SEGMENTOR)
    assert 'mIoU 100' in note
    relabel(masks, {0: 255}, ('validation', ))
    assert 'mIoU 100' in evaluate(masks, tmp_path, SEGMENTOR)[-1]


def test_ignored_label_of_the_loss_alone(masks, tmp_path):
    options = {'model.decode_head.ignore_index': 200}
    with pytest.raises(
            MMHierError,
            match='model.decode_head.ignore_index=200, but val_evaluator.'
            'ignore_index=255'):
        evaluate(masks, tmp_path, SEGMENTOR, **options)
    options['val_evaluator.ignore_index'] = 200
    relabel(masks, {0: 200})
    assert 'mIoU 100' in evaluate(masks, tmp_path, SEGMENTOR, **options)[-1]


def test_ignored_label_of_the_metric_alone(masks, tmp_path):
    relabel(masks, {0: 255})
    with pytest.raises(MMHierError, match=r'score .*mIoU 50.* values \[1, 255'):
        evaluate(
            masks, tmp_path, SEGMENTOR, **{
                'val_evaluator.ignore_index': 200,
                'model.decode_head.ignore_index': 200
            })


def test_more_classes_than_a_byte(masks, tmp_path):
    names = [f'c{i}' for i in range(300)]
    options = {
        'train_dataloader.dataset.dataset.metainfo.classes': names,
        'model.decode_head.num_classes': 300
    }
    with pytest.raises(
            MMHierError, match='has 300 classes, .* 8 bits.* at most 255'):
        evaluate(masks, tmp_path, SEGMENTOR, **options)


CLASSIFIER = str(CONFIGS / 'classifier.py')


@pytest.fixture
def folders(folders_root, tmp_path) -> Path:
    """A copy of the class folders to change."""
    return shutil.copytree(folders_root, tmp_path / 'folders')


def test_class_folders(folders, tmp_path):
    note, = evaluate(folders, tmp_path, CLASSIFIER)
    assert 'score top1 100' in note
    with pytest.raises(MMHierError, match='topk=.*only 2 classes'):
        evaluate(folders, tmp_path, CLASSIFIER, val_evaluator__topk=(1, 5))
    with pytest.raises(MMHierError, match='save_best=top1: .*accuracy/top1$'):
        evaluate(
            folders,
            tmp_path,
            CLASSIFIER,
            default_hooks__checkpoint__save_best='top1')


def add_folders(folders, splits):
    """Folders that are no classes."""
    for split in splits:
        (folders / split / 'box').mkdir()
        (folders / split / 'box' / '.DS_Store').write_text('')
        shutil.copytree(folders / split / 'dark',
                        folders / split / '.ipynb_checkpoints')


@pytest.mark.parametrize('classes', ['auto', None])
@pytest.mark.parametrize('splits', [('train', 'val'), ('train', )])
def test_folders_that_are_no_classes(splits, classes, folders, tmp_path):
    add_folders(folders, splits)
    options = dict(data_root=str(folders), classes=classes)
    cfg = load_config(CLASSIFIER, work_dir=str(tmp_path / 'work'), **options)
    lines: list[str] = []
    check_data(cfg, ('train', 'val'), warn=lines.append)
    assert len(lines) == len(splits)
    assert all('2 folders in ' in line and '.ipynb_checkpoints, box' in line
               for line in lines)
    assert 'top1 100' in dry_evaluate(cfg, 'val')[0]
    train = DATASETS.build(cfg.train_dataloader.dataset)
    assert train.metainfo['classes'] == ('bright', 'dark') and len(train) == 4


@pytest.mark.slow
def test_folders_that_are_no_classes_in_every_tool(folders, tmp_path):
    add_folders(folders, ('train', 'val'))
    options = dict(data_root=str(folders), classes='auto')
    runner = apis.train(
        CLASSIFIER, work_dir=str(tmp_path / 'run'), no_validate=True, **options)
    assert len(runner.train_dataloader.dataset) == 4
    metrics = apis.test(
        CLASSIFIER,
        str(tmp_path / 'run' / 'epoch_1.pth'),
        work_dir=str(tmp_path / 'test'),
        **options)
    assert metrics['accuracy/top1'] >= 0
    findings = apis.check_config(CLASSIFIER, **options)
    assert not [f for f in findings if f.level == 'error']
    assert any('.ipynb_checkpoints' in f.message for f in findings
               if f.level == 'warning')


def test_class_without_images_in_one_set(folders, tmp_path):
    for path in (folders / 'val' / 'dark').iterdir():
        path.unlink()
    lines = evaluate(folders, tmp_path, CLASSIFIER)
    assert '1 of 2 class folders' in lines[0] and 'such as dark' in lines[0]


class OwnFolders(CustomDataset):
    """Of a user."""


def test_hidden_folder_of_a_dataset_of_ones_own(folders, tmp_path):
    (folders / 'train' / '.ipynb_checkpoints').mkdir()
    DATASETS.register_module(module=OwnFolders, force=True)
    with pytest.raises(
            MMHierError, match='.ipynb_checkpoints would be taken .*OwnFolder'):
        evaluate(
            folders,
            tmp_path,
            CLASSIFIER,
            train_dataloader__dataset__type='mmengine.OwnFolders')
