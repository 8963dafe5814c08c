"""Values that users' files and configs hold in place of those expected."""
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_masks
from mmhier.apis import MMHierError, check_config
from mmhier.datasets.segmentation_checks import _count_pixels
from mmhier.evaluation.dry_labels import evaluate_labels
from mmhier.evaluation.trial import Trial
from .conftest import DETECTOR
from .test_users_cases import CLASSIFIER, SEGMENTOR, evaluate, write


def categories(**values):
    """Change of the first category."""
    return lambda content: content['categories'][0].update(values)


def annotation(**values):
    """Change of the first annotation."""
    return lambda content: content['annotations'][0].update(values)


def image(**values):
    """Change of the second image."""
    return lambda content: content['images'][1].update(values)


def string_categories(content):
    for entry in content['categories']:
        entry['id'] = f'c{entry["id"]}'
    for entry in content['annotations']:
        entry['category_id'] = f'c{entry["category_id"]}'


def float_sizes(content):
    for entry in content['images']:
        entry.update(width=96., height=64.)


@pytest.mark.parametrize('backend', ['pycocotools', 'faster'])
@pytest.mark.parametrize('change', [string_categories, float_sizes])
def test_both_backends_take(change, backend, tmp_path):
    note, = evaluate(
        write(tmp_path / 'data', change),
        tmp_path,
        val_evaluator__backend=backend)
    assert 'bbox_mAP 1.000' in note and 'segm_mAP 1.000' in note


@pytest.mark.parametrize('change, message', [
    (categories(id=[1]), r'categories\[0\] has id=\[1\]: expected a number or'),
    (categories(name=7), 'a category has the name 7: expected a string'),
    (categories(name=None), 'a category has the name None: expected a string'),
    (image(id=None), r'images\[1\] has id=None: expected a number or a str'),
    (image(width=96.5), 'width=96.5 .* two numbers of pixels'),
    (annotation(image_id=[1]), r'annotations\[0\] has image_id=\[1\]: exp'),
    (annotation(category_id={}), r'annotations\[0\] has category_id={}: exp'),
    (lambda c: c.update(annotations=None), 'annotations is None: .* a list'),
    (lambda c: c.update(annotations=[]), 'no annotations, .*none is left to t'),
    (annotation(segmentation=dict(size=[64, 96], counts=[-10, 6154])),
     'annotation 1 has RLE whose counts do not add up'),
    (annotation(segmentation=dict(size=[64, 96], counts='zzz')),
     'annotation 1 has compressed RLE that is damaged: .* 6144 pixels'),
])
def test_annotations(change, message, tmp_path):
    with pytest.raises(MMHierError, match=message):
        evaluate(write(tmp_path / 'data', change), tmp_path)


def far_polygons(content):
    for entry in content['annotations'][:2]:
        entry['segmentation'] = [[0, 0, 5, 0, 5, 5]]


@pytest.mark.parametrize('change, message', [
    (image(file_name='1.jpg'), '1 images are listed more than once, such as 1'),
    (far_polygons, '2 of 4 annotations looked at have a box that is not aro'),
])
def test_warnings_on_annotations(change, message, tmp_path):
    assert message in evaluate(write(tmp_path / 'data', change), tmp_path)[0]


def test_pixels_of_compressed_rle():
    rng = np.random.default_rng(0)
    masks = [
        cv2.resize(rng.integers(0, 2, size, np.uint8), (70, 50))
        for size in ((1, 1), (2, 3), (5, 9), (20, 30))
    ]
    masks += [np.ones((50, 70), np.uint8), np.zeros((50, 70), np.uint8)]
    counts = [
        coco_masks.encode(np.asfortranarray(m))['counts'].decode()
        for m in masks
    ]
    assert _count_pixels(counts).tolist() == [3500] * 6
    damaged = [text[:-1] for text in counts] + ['\x7f0', 'o']
    assert 3500 not in _count_pixels(damaged)


def test_nothing_to_score(tmp_path):
    root = write(tmp_path / 'data')
    write(root, lambda c: c.update(annotations=[]), ('val', ))
    with pytest.raises(MMHierError, match='ann_file=.* has no object to score'):
        evaluate(root, tmp_path)


def test_all_images_too_small(tmp_path):
    key = 'train_dataloader.dataset.filter_cfg.min_size'
    with pytest.raises(MMHierError, match='all 4 images are narrower'):
        evaluate(write(tmp_path / 'data'), tmp_path, **{key: 100})


def in_other_order(content):
    content['categories'].reverse()


def test_classes_of_training_and_validation(tmp_path):
    root = write(tmp_path / 'data')
    write(root, in_other_order, ('val', ))
    classes = ('tile', 'bar', 'box')
    options = {'val_dataloader.dataset.metainfo.classes': classes}
    with pytest.raises(
            MMHierError,
            match='classes of val_dataloader.dataset are tile, bar, box, .* '
            'same order'):
        evaluate(root, tmp_path, **options)


@pytest.mark.parametrize('options, note', [
    (dict(metric='proposal'), 'score AR@100 1.000'),
    (dict(metric='proposal_fast'), 'score AR@100 1.000'),
    (dict(iou_thrs=[0.5]), 'score bbox_mAP 1.000, bbox_mAP_50 1.000, segm_mAP'),
    (dict(metric_items=['mAP_s']), 'no AP is evaluated on 4 images'),
])
def test_metrics_of_boxes(options, note, tmp_path):
    options = {f'val_evaluator.{k}': v for k, v in options.items()}
    assert note in evaluate(write(tmp_path / 'data'), tmp_path, **options)[0]


def test_files_of_a_metric(tmp_path):
    """They are for predictions, and left as they are before training."""
    prefix = tmp_path / 'results' / 'mine'
    root = write(tmp_path / 'data')
    evaluate(root, tmp_path, val_evaluator__outfile_prefix=str(prefix))
    assert not list(prefix.parent.iterdir())
    (tmp_path / 'file').write_text('')
    with pytest.raises(
            MMHierError,
            match='val_evaluator.outfile_prefix .*file cannot be written to'):
        evaluate(
            root,
            tmp_path,
            val_evaluator__outfile_prefix=str(tmp_path / 'file' / 'mine'))


def test_pictures_of_a_metric(masks_root, tmp_path):
    folder = tmp_path / 'labels'
    evaluate(
        masks_root, tmp_path, SEGMENTOR, val_evaluator__output_dir=str(folder))
    assert not list(folder.iterdir())


def test_unknown_metric(tmp_path):
    with pytest.raises(
            MMHierError,
            match='val_evaluator: CocoMetric cannot be built: "metric should '):
        evaluate(
            write(tmp_path / 'data'), tmp_path, val_evaluator__metric='boxes')


def test_images_that_are_loaded_twice(tmp_path):
    cfg = Config.fromfile(DETECTOR)
    cfg.val_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.val_dataloader.dataset)
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(MMHierError, match='1.jpg is in the dataset twice'):
        evaluate(
            write(tmp_path / 'data'), tmp_path, str(tmp_path / 'config.py'))


SEG_CLASSES = 'train_dataloader.dataset.dataset.metainfo.classes'


@pytest.mark.parametrize('options, message', [
    ({
        SEG_CLASSES: ('tile', 'tile')
    }, r"classes=\('tile', 'tile'\) names a class twice"),
    ({
        SEG_CLASSES: ('tile', 'ground')
    }, 'are ground, tile, .* those of .* tile, ground, .* the same order'),
    ({
        'val_evaluator.iou_metrics': ['mAP']
    }, r"val_evaluator.iou_metrics=\['mAP'\]: expected some of mIoU"),
    ({
        'model.decode_head.out_channels': 1
    }, 'one channel, whose softmax is always 1'),
    ({
        'train_dataloader.batch_size': 0
    }, 'train_dataloader.batch_size=0: expected a whole number from 1'),
    ({
        'val_dataloader.num_workers': -1
    }, 'val_dataloader.num_workers=-1: expected a whole number from 0'),
    ({
        'val_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile')]
    }, 'val_dataloader.dataset.pipeline loads no masks, which val_evaluator n'),
    ({
        'val_dataloader.dataset.pipeline': [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='Resize', scale=(32, 48)),
            dict(type='PackSegInputs')
        ]
    }, 'gives val_evaluator masks of 32x48 pixels .* of 64x64: move LoadAnn'),
    ({
        'val_dataloader.dataset.ann_file': 'annotations'
    }, 'val_dataloader.dataset.ann_file=.*annotations is a folder: expected'),
])
def test_segmentors(options, message, masks_root, tmp_path):
    with pytest.raises(MMHierError, match=message):
        evaluate(masks_root, tmp_path, SEGMENTOR, **options)


def test_other_names_of_classes(masks_root, tmp_path):
    lines = evaluate(masks_root, tmp_path, SEGMENTOR,
                     **{SEG_CLASSES: ('ground', 'Tile')})
    assert 'state the same names in both' in lines[0]


def test_masks_of_jpeg(masks_root, tmp_path):
    root = shutil.copytree(masks_root, tmp_path / 'masks')
    for path in (root / 'annotations' / 'training').iterdir():
        Image.open(path).convert('L').save(path, format='JPEG', quality=100)
    lines = evaluate(root, tmp_path, SEGMENTOR)
    assert '2 of 2 masks are JPEG' in lines[0] and 'write PNG' in lines[0]


def test_images_left_out_of_validation(folders_root, tmp_path):
    warning, _ = evaluate(
        folders_root, tmp_path, CLASSIFIER, val_dataloader__drop_last=True)
    assert warning.startswith('val_dataloader.drop_last=True leaves the images')


@pytest.mark.parametrize('text, message', [
    ('', 'list.txt is empty: expected an image and its label'),
    ('bright/bright_0.jpg 1\ndark/dark_0.jpg 2',
     "list.txt, line 2: label '2' is none of the classes, expected 0 to 1"),
    ('bright/bright_0.jpg\t1', r"label 'bright/bright_0.jpg\\t1' is none of"),
    ('bright/bright_0.jpg 1\ndark/gone.jpg 0',
     '1 of the 2 images in .*list.txt are not on disk, such as .*dark/gone.jpg')
])
def test_lists_of_images(text, message, folders_root, tmp_path):
    """Without classes in the config, the head has their number."""
    root = shutil.copytree(folders_root, tmp_path / 'folders')
    (root / 'list.txt').write_text(text)
    with pytest.raises(MMHierError, match=message):
        evaluate(
            root,
            tmp_path,
            CLASSIFIER,
            train_dataloader__dataset__ann_file='list.txt')


def test_metrics_that_are_not_tried(folders_root, tmp_path):
    """Nor are the names of their values known."""
    note, = evaluate(
        folders_root,
        tmp_path,
        CLASSIFIER,
        val_evaluator=dict(_delete_=True, type='SingleLabelMetric'),
        default_hooks__checkpoint__save_best='single-label/recall')
    assert note == 'val_evaluator: SingleLabelMetric was not tried'


def test_single_class_folder(folders_root, tmp_path):
    root = shutil.copytree(folders_root, tmp_path / 'folders')
    for split in ('train', 'val'):
        shutil.rmtree(root / split / 'dark')
    with pytest.raises(MMHierError, match='holds a single class folder, brigh'):
        evaluate(root, tmp_path, CLASSIFIER)


def test_labels_of_no_class():
    dataset = SimpleNamespace(
        get_data_info=lambda i: dict(img_path='a.jpg', gt_label=7))
    metric = SimpleNamespace(topk=(1, ), dataset_meta=dict(classes='ab'))
    with pytest.raises(MMHierError, match='a.jpg has the label 7: .* 0 to 1'):
        evaluate_labels(
            Trial('val_evaluator', {}, metric, dataset, [], range(1), {}))


def test_scores_that_no_label_reaches(folders_root, tmp_path):
    with pytest.raises(MMHierError, match='perfect predictions score top1.* 0'):
        evaluate(folders_root, tmp_path, CLASSIFIER, val_evaluator__thrs=2.)


def test_class_folders_of_each_phase(folders_root, tmp_path):
    root = shutil.copytree(folders_root, tmp_path / 'folders')
    (root / 'val' / 'dark').rename(root / 'val' / 'night')
    findings = check_config(CLASSIFIER, data_root=str(root))
    errors = [f for f in findings if f.level == 'error']
    assert any('hold other class folders, such as dark' in f.message
               for f in errors if f.subject == 'val data')


def test_learning_rate_that_is_a_string(folders_root, tmp_path):
    cfg = Config.fromfile(CLASSIFIER)
    cfg.optim_wrapper.optimizer.lr = '1e-4'
    cfg.dump(tmp_path / 'config.py')
    findings = check_config(
        str(tmp_path / 'config.py'), data_root=str(folders_root))
    assert 'optim_wrapper.optimizer: AdamW cannot be built: ' in (
        findings[0].message)
