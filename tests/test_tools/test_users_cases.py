"""Cases from users' days: each is found before the training, or just works."""
import copy
import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmhier import apis
from mmhier.apis import MMHierError, check_data, load_config
from mmhier.checkpoints import read_checkpoint
from mmhier.engine.runner import Runner
from mmhier.evaluation.dry_run import dry_evaluate
from .conftest import CONFIGS, DETECTOR
from .test_resume import assert_same, write_config

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


@pytest.mark.parametrize('crowd', [None, 'missing'])
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


@pytest.mark.parametrize('segmentation', [None, []])
def test_masks_to_evaluate(segmentation, tmp_path):

    def change(content):
        content['annotations'][1]['segmentation'] = segmentation

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


def test_folders_that_are_no_classes(folders, tmp_path):
    for split in ('train', 'val'):
        for path in (folders / split / 'dark').iterdir():
            path.unlink()
    lines = evaluate(folders, tmp_path, CLASSIFIER)
    assert '1 of 2 class folders' in lines[0] and 'such as dark' in lines[0]
    (folders / 'train' / '.ipynb_checkpoints').mkdir()
    with pytest.raises(MMHierError, match='.ipynb_checkpoints would be taken '):
        evaluate(folders, tmp_path, CLASSIFIER)


def learning_rates(runner) -> list[float]:
    """Rates of the schedule by iteration."""
    return json.loads(Path(runner.work_dir, 'rates.json').read_text())


RATES = """
import json
from pathlib import Path
from mmengine.hooks import Hook
from mmhier.registry import HOOKS

@HOOKS.register_module(force=True)
class RatesHook(Hook):
    priority = 'VERY_HIGH'
    def before_train(self, runner):
        self.rates = []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        self.rates.append((runner.iter, groups[0]['lr']))
    def after_train(self, runner):
        path = Path(runner.work_dir, 'rates.json')
        path.write_text(json.dumps(self.rates))
"""
COSINE = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=1),
    dict(type='CosineAnnealingLR', T_max=2, by_epoch=True, end=2)
]
LONGER = [COSINE[0], dict(COSINE[1], T_max=5, end=5)]
STEPS = [dict(type='MultiStepLR', milestones=[1], by_epoch=True)]


@pytest.fixture
def train(folders_root, tmp_path, monkeypatch):
    """Train a small classifier and note its learning rates."""
    (tmp_path / 'rates_hook.py').write_text(RATES)
    monkeypatch.syspath_prepend(tmp_path)
    base = Config.fromfile(
        write_config('classifier', tmp_path / 'base.py', True, 2, 1))
    base.custom_imports = dict(imports=['rates_hook'])
    base.custom_hooks.append(dict(type='mmhier.RatesHook'))

    def run(name, resume=None, **values):
        cfg = copy.deepcopy(base)
        cfg.merge_from_dict({
            k.replace('__', '.'): v
            for k, v in values.items()
        })
        path = tmp_path / f'{name}.py'
        cfg.dump(path)
        return apis.train(
            str(path),
            data_root=str(folders_root),
            work_dir=str(tmp_path / name),
            seed=0,
            resume=resume and str(tmp_path / resume))

    return run


@pytest.mark.parametrize('old, new, named', [
    (dict(param_scheduler=COSINE),
     dict(param_scheduler=LONGER,
          train_cfg__max_epochs=5), 'param_scheduler.1.T_max was 2 and is 5'),
    (dict(param_scheduler=STEPS),
     dict(
         param_scheduler=[dict(STEPS[0], milestones=[3, 4])],
         train_cfg__max_epochs=5), 'param_scheduler.0.milestones was {1: 1} '),
    (dict(param_scheduler=STEPS),
     dict(
         param_scheduler=STEPS,
         optim_wrapper__optimizer__lr=0.01,
         train_cfg__max_epochs=3),
     'initial_lr of the optimizer was 0.0001 and is 0.01'),
    (dict(param_scheduler=STEPS),
     dict(param_scheduler=STEPS,
          train_cfg__max_epochs=4), 'param_scheduler.0.end was 2 and is 4'),
])
def test_resuming_with_another_schedule(old, new, named, train, tmp_path,
                                        capfd):
    train('old', **old)
    whole = learning_rates(train('new', **new))
    capfd.readouterr()
    resumed = learning_rates(train('resumed', 'old/epoch_2.pth', **new))
    assert resumed == whole[-len(resumed):] and resumed[0][0] == 2
    printed = capfd.readouterr().out
    assert named in printed and 'goes on as the config says' in printed
    if old == dict(param_scheduler=STEPS) and 'end' in named:
        # Both agree up to here, so the weights are the same bits.
        states = [
            read_checkpoint(tmp_path / name / 'epoch_4.pth')['state_dict']
            for name in ('new', 'resumed')
        ]
        assert_same(*states)


def test_resuming_with_another_batch_or_optimizer(train, capfd):
    train('old')
    train('batch', 'old/epoch_1.pth', train_dataloader__batch_size=2)
    assert 'batch_size was 4 and is 2' in capfd.readouterr().out
    with pytest.raises(MMHierError, match='trained by AdamW, the config .*SGD'):
        train('sgd', 'old/epoch_1.pth', optim_wrapper__optimizer__type='SGD')


def test_early_stopping_stays_stopped(train, capfd):
    hook = dict(
        type='EarlyStoppingHook',
        monitor='accuracy/top1',
        rule='greater',
        stopping_threshold=-1)
    values = dict(train_cfg__max_epochs=3, custom_hooks=[hook])
    assert train('old', **values).epoch == 1
    assert train('same', 'old/epoch_1.pth', **values).epoch == 1
    assert 'was ended by EarlyStoppingHook' in capfd.readouterr().out


def test_no_workers(train):
    train(
        'run',
        train_dataloader__persistent_workers=True,
        train_dataloader__prefetch_factor=2)


@pytest.mark.parametrize('name, package',
                         [('TensorboardVisBackend', 'tensorboard'),
                          ('WandbVisBackend', 'wandb')])
def test_missing_packages_of_logs(name, package, train, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
            MMHierError,
            match=f'visualizer.vis_backends.0: {name} needs {package}, which '
            f'is not installed: run pip install {package}'):
        train('run', visualizer__vis_backends=[dict(type=name)])


def test_missing_custom_import(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = {CLASSIFIER!r}\n"
                    "custom_imports = dict(imports=['nope.heads'])\n")
    with pytest.raises(
            MMHierError,
            match="cannot import what config .* names: No module named 'nope'"):
        load_config(str(path), work_dir=str(tmp_path))


def test_port_in_use(monkeypatch):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        environment = dict(
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(server.getsockname()[1]),
            RANK='0',
            LOCAL_RANK='0',
            WORLD_SIZE='1')
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(
                MMHierError,
                match=f'port {environment["MASTER_PORT"]} is in '
                'use: set another one with --master_port'):
            Runner.setup_env(
                SimpleNamespace(launcher='pytorch', distributed=True), {})
