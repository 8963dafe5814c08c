"""Error types, confusions and pictures of an analysis, on known answers."""
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmhier.analysis.error_figures import Labels, draw_class_bars
from mmhier.analysis.error_types import (
    ERROR_TYPES,
    SIZES,
    ImageDetections,
    assign_errors,
    average_precision,
    average_precision_gains,
    class_ious,
    count_confusions,
    count_errors,
    count_pixel_confusions,
    errors_above,
    largest_confusions,
)
from mmhier.analysis.results import analyze_results
from mmhier.datasets import generate_shapes
from mmhier.evaluation.predictions import read_predictions
from mmhier.evaluation.segmentation_dump import DumpSegResults
from ..test_evaluation.coco_samples import disturbed

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/_base_/datasets/coco_instance.py'
NO_GAIN = dict.fromkeys(ERROR_TYPES, 0)


def image(detections, objects, ious) -> ImageDetections:
    """Detections (class, score), objects (class[, 'crowd']), overlaps."""
    return ImageDetections(
        labels=np.array([d[0] for d in detections], int),
        scores=np.array([d[1] for d in detections], float),
        areas=np.full(len(detections), 2000.),
        true_labels=np.array([o[0] for o in objects], int),
        true_areas=np.full(len(objects), 2000.),
        is_crowd=np.array([len(o) > 1 for o in objects], bool),
        ious=np.array(ious, float))


# Detections and objects with overlaps; kinds; gains of AP50 from what.
CASES = {
    'right': ([(0, .9)], [(0, )], [[.5]], ['right'], ['found'], 1, {}),
    'localisation': ([(0, .9)], [(0, )], [[.49]], ['localisation'],
                     ['mistaken'], 0, dict(localisation=1)),
    'at the lower bound': ([(0, .9)], [(0, )], [[.1]], ['localisation'],
                           ['mistaken'], 0, dict(localisation=1)),
    'classification':
    ([(1, .9)], [(0, )], [[.5]], ['classification'], ['mistaken'], 0,
     dict(classification=1)),
    'both': ([(1, .9)], [(0, )], [[.49]], ['both'], ['missed'], 0, {}),
    'background':
    ([(0, .9)], [(0, )], [[.09]], ['background'], ['missed'], 0, {}),
    'no object': ([(0, .9)], [], [], ['background'], [], 0, {}),
    'nothing found': ([], [(0, )], [], [], ['missed'], 0, {}),
    # The duplicate comes before the second object is found: 2/3 at recall 1.
    'duplicate': ([(0, .9), (0, .8), (0, .7)], [(0, ), (0, )], [[.9,
                                                                 0], [.6, 0],
                                                                [0, .8]],
                  ['right', 'duplicate',
                   'right'], ['found', 'found'], (51 + 50 * 2 / 3) / 101,
                  dict(duplicate=1 - (51 + 50 * 2 / 3) / 101)),
    # Precision 1/2 at any recall.
    'false alarm above': ([(0, .9), (0, .8)], [(0, )], [[0], [.7]],
                          ['background',
                           'right'], ['found'], .5, dict(background=.5)),
    'missed': ([(0, .9)], [(0, ), (0, )], [[.9, 0]], ['right'],
               ['found', 'missed'], 51 / 101, dict(missed=50 / 101)),
    # The better of two is corrected, the other one dropped.
    'two for one': ([(0, .9), (0, .8)], [(0, ), (0, )], [[.3, 0], [.4, 0]],
                    ['localisation', 'localisation'], ['mistaken', 'missed'], 0,
                    dict(localisation=51 / 101)),
    # An object that is found cannot be found again by correction.
    'before one found': ([(0, .9), (0, .8)], [(0, ), (0, )], [[.3, 0], [.8, 0]],
                         ['localisation', 'right'], ['found',
                                                     'missed'], 51 / 202,
                         dict(localisation=51 / 202, missed=50 / 202)),
    'after one found': ([(0, .9), (0, .8)], [(0, )], [[.8], [.3]],
                        ['right', 'localisation'], ['found'], 1, {}),
    'a wrong class on one found': ([(1, .9), (0, .8), (1, .7)], [
        (0, ), (1, )
    ], [[.8, 0], [.9, 0],
        [0, .9]], ['classification', 'right',
                   'right'], ['found', 'found'], .75, dict(classification=.25)),
    # Localisation is tested before classification.
    'own class first': ([(0, .9)], [(0, ), (1, )], [[.2, .9]], ['localisation'],
                        ['mistaken', 'missed'], 0, dict(localisation=.5)),
    'most overlap': ([(0, .9), (0, .8)], [(0, ), (0, )], [[.6, .7], [.6, .8]],
                     ['right', 'right'], ['found', 'found'], 1, {}),
    'crowd of the class': ([(0, .9), (0, .8)], [(0, 'crowd'), (0, )], [[.6, 0],
                                                                       [0, .6]],
                           ['ignored', 'right'], ['found'], 1, {}),
    'crowd of another class': ([(0, .9), (0, .8)], [
        (1, 'crowd'), (0, )
    ], [[.6, 0], [0, .6]], ['background',
                            'right'], ['found'], .5, dict(background=.5)),
}


@pytest.mark.parametrize('name', CASES)
def test_error_types(name):
    detections, objects, ious, kinds, object_kinds, ap, gains = CASES[name]
    case = image(detections, objects, ious)
    errors = assign_errors(case)
    assert errors.detections == kinds
    assert errors.objects == object_kinds
    found = average_precision_gains([case], [errors], 2)
    assert found.pop('AP50') == pytest.approx(ap)
    assert found == pytest.approx({**NO_GAIN, **gains})


def test_only_the_best_hundred_detections_count_in_any_order():
    case = image([(0, .1), *[(0, .5)] * 100, (0, .9)], [(0, )],
                 [[1.], *[[0.]] * 100, [.7]])
    assert len(case.scores) == 100 and case.scores[0] == .9
    assert case.order[0] == 101 and 0 not in case.order
    assert assign_errors(case).detections == ['right', *['background'] * 99]


def test_errors_by_size():
    case = image([(0, .9), (1, .8)], [(0, )], [[0.3], [0.]])
    case.areas = np.array([32**2 - 1., 96**2])
    case.true_areas = np.array([32**2])
    counts = count_errors([case] * 3, [assign_errors(case)] * 3)
    expected = {kind: dict.fromkeys(SIZES, 0) for kind in ERROR_TYPES}
    expected['localisation']['small'] = 3
    expected['background']['large'] = 3
    assert counts == expected
    missed = image([], [(0, )], [])
    missed.true_areas = np.array([32**2])
    counts = count_errors([missed], [assign_errors(missed)])
    assert counts['missed'] == dict(small=0, medium=1, large=0)


def test_errors_above_a_score():
    case = image([(0, .9), (1, .5), (1, .2)], [(0, ), (1, ), (0, )],
                 [[.9, 0, 0], [0, .3, 0], [0, 0, .9]])
    errors = assign_errors(case)
    assert errors.objects == ['found', 'mistaken', 'mistaken']
    seen = errors_above(case, errors, .4)
    assert seen.detections == ['right', 'localisation']
    assert seen.objects == ['found', 'mistaken', 'missed']
    assert errors_above(case, errors, 1).objects == ['missed'] * 3


def test_average_precision_of_nothing():
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


def test_confusions_of_detections():
    case = image(
        [(0, .9), (1, .8), (1, .7), (0, .6), (1, .2), (0, .5)],
        [(0, ), (0, ), (1, ), (1, 'crowd')],
        [
            [.8, 0, 0, 0],
            # Another class; takes the object that is free.
            [.9, .5, 0, 0],
            # No object is left for it.
            [.9, .6, .4, 0],
            # Within a crowd.
            [0, 0, 0, .9],
            # Its score is too low.
            [0, 0, .9, 0],
            [0, 0, .49, 0]
        ])
    matrix = count_confusions([case, case], 2)
    assert matrix.tolist() == [[2, 2, 0], [0, 0, 2], [2, 2, 0]]
    assert count_confusions([case],
                            2, score_threshold=0).tolist() == [[1, 1, 0],
                                                               [0, 1, 0],
                                                               [1, 1, 0]]
    assert largest_confusions(matrix, ['a', 'b', 'background'],
                              1) == [dict(truth='a', prediction='b', count=2)]


def test_confusions_of_pixels():
    truth = np.array([[0, 0, 1], [1, 2, 255]])
    found = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = count_pixel_confusions(truth, found, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0],
                               [0, 0, 0, 0]]
    ious = class_ious(matrix)
    assert ious[:3].tolist() == [1 / 3, 2 / 3, 0] and np.isnan(ious[3])


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    generate_shapes(str(root), 1, 12)
    return root


@pytest.fixture
def config(shapes) -> Config:
    cfg = Config.fromfile(CONFIG)
    path = 'annotations/instances_val2017.json'
    categories = json.loads((shapes / path).read_text())['categories']
    cfg.default_scope = 'mmdet'
    cfg.test_dataloader.dataset.update(
        data_root=str(shapes),
        metainfo=dict(classes=[c['name'] for c in categories]))
    cfg.test_evaluator.ann_file = str(shapes / path)
    return cfg


def write_predictions(path: Path, samples) -> Path:
    # As mmengine does.
    path.write_bytes(pickle.dumps(samples, protocol=2))
    return path


@pytest.fixture
def predictions(shapes, tmp_path) -> Path:
    samples = disturbed(str(shapes / 'annotations/instances_val2017.json'), 0)
    return write_predictions(tmp_path / 'found.pkl', samples)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_analysis_of_detections(iou_type, config, predictions, tmp_path):
    out = tmp_path / 'out'
    result = analyze_results(config, predictions, out, iou_type=iou_type)
    # By pycocotools or faster-coco-eval, and by the analysis.
    ap50 = result['metrics'][f'{iou_type}_mAP_50']
    assert 0.2 < ap50 < 0.9
    assert result['AP50'] == pytest.approx(ap50, abs=1e-6)
    assert all(e['count'] > 0 for e in result['errors'].values())
    assert all(e['count'] == sum(e[size] for size in SIZES)
               for e in result['errors'].values())
    matrix = np.array(result['confusion_matrix'])
    objects = [c['objects'] for c in result['classes'].values()]
    assert matrix[:-1].sum(1).tolist() == objects
    assert json.loads((out / 'analysis.json').read_text()) == result
    assert len(result['worst_images']) == 8
    assert sorted(p.name for p in out.iterdir()) == [
        'analysis.json', 'class_ap.png', 'confusion_matrix.png', 'errors.png',
        'worst_images.png'
    ]
    sheet = cv2.imread(str(out / 'worst_images.png'))
    assert sheet.shape[1] == 2 * (2 * 560 + 12) and sheet.std() > 10


def test_without_annotation_file_of_the_evaluator(config, predictions,
                                                  tmp_path):
    expected = analyze_results(config, predictions, tmp_path / 'a')
    config.test_evaluator = dict(type='VOCMetric')
    result = analyze_results(config, predictions, tmp_path / 'b')
    assert result['metrics']['bbox_mAP'] == pytest.approx(
        expected['metrics']['bbox_mAP'], abs=1e-6)


def test_results_are_not_overwritten_unasked(config, predictions, tmp_path):
    (tmp_path / 'analysis.json').write_text('{}')
    with pytest.raises(ValueError, match='holds an analysis.*--overwrite'):
        analyze_results(config, predictions, tmp_path)
    assert (tmp_path / 'analysis.json').read_text() == '{}'
    analyze_results(config, predictions, tmp_path, overwrite=True, num_worst=1)
    assert (tmp_path / 'analysis.json').read_text() != '{}'


def cut(samples):
    return samples[1:]


def rename(samples):
    return [dict(samples[0], img_id=99), *samples[1:]]


def relabel(samples):
    samples[0]['pred_instances']['labels'][0] = 80
    return samples


def unmask(samples):
    for sample in samples:
        del sample['pred_instances']['masks']
    return samples


def unpredict(samples):
    del samples[0]['pred_instances']
    return samples


@pytest.mark.parametrize('change, message', [
    (cut, r'11 images for the 12 .* none of 1 of them, such as 2'),
    (rename, 'none of 1 of them, such as 2: they were written with other'),
    (relabel, 'of class 80, and the test set has 6 classes'),
    (unmask, "no masks in the predictions.*iou_type='bbox'"),
    (unpredict, 'predictions of 2 have no pred_instances'),
])
def test_predictions_of_something_else(change, message, config, predictions,
                                       tmp_path):
    samples = change(read_predictions(predictions))
    path = write_predictions(tmp_path / 'changed.pkl', samples)
    with pytest.raises(match=message):
        analyze_results(config, path, tmp_path / 'out', iou_type='segm')
    assert not (tmp_path / 'out/analysis.json').exists()


@pytest.fixture
def masks(tmp_path):
    """Config and two images; a quarter of the pixels is wrong in one."""
    folder = tmp_path / 'masks'
    for kind in ('images', 'annotations'):
        (folder / kind / 'validation').mkdir(parents=True)
    truth = np.repeat([[0, 1, 2, 3]], 40, 0).repeat(20, 1).astype(np.uint8)
    samples = []
    for i in range(2):
        path = folder / f'images/validation/{i}.jpg'
        cv2.imwrite(str(path), np.full((40, 80, 3), 90, np.uint8))
        cv2.imwrite(str(folder / f'annotations/validation/{i}.png'), truth)
        found = truth.astype(int) - 1
        found[truth == 0] = 7
        found[truth == 2] -= i
        samples.append(
            dict(
                img_path=str(path),
                pred_sem_seg=dict(data=torch.from_numpy(found)[None])))
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/ade20k_512x512.py')
    cfg.default_scope = 'mmseg'
    cfg.test_dataloader.dataset.data_root = str(folder)
    return cfg, samples


def test_analysis_of_segmentation(masks, tmp_path):
    cfg, samples = masks
    path = write_predictions(tmp_path / 'found.pkl', samples)
    result = analyze_results(cfg, path, tmp_path / 'out')
    # Label 0 of the files is ignored. Of class 'building', 2 in the files,
    # half is found, the other half taken for 'wall'.
    assert result['metrics']['mIoU'] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result['metrics']['aAcc'] == pytest.approx(5 / 6)
    assert result['classes']['wall'] == dict(
        IoU=pytest.approx(2 / 3), pixels=1600)
    assert result['classes']['building']['IoU'] == 0.5
    assert result['classes']['tree'] == dict(IoU=None, pixels=0)
    assert result['largest_confusions'] == [
        dict(truth='building', prediction='wall', count=800)
    ]
    assert result['worst_images'] == [
        '1.jpg: 33.3 % of the pixels wrong', '0.jpg: 0.0 % of the pixels wrong'
    ]
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
        'analysis.json', 'class_iou.png', 'confusion_matrix.png',
        'worst_images.png'
    ]


def test_segmentation_of_another_size(masks, tmp_path):
    cfg, samples = masks
    samples[1]['pred_sem_seg']['data'] = torch.zeros(1, 5, 6, dtype=int)
    path = write_predictions(tmp_path / 'found.pkl', samples)
    with pytest.raises(match=r'1.jpg has \(5, 6\) pixels'):
        analyze_results(cfg, path, tmp_path / 'out')


def test_other_packages(predictions, tmp_path):
    cfg = Config(dict(default_scope='mmpretrain'))
    with pytest.raises(ValueError, match='not those of mmpretrain'):
        analyze_results(cfg, predictions, tmp_path)


def test_predictions_are_read_as_written(tmp_path):
    samples = [
        dict(
            img_id=1,
            scale_factor=(1.5, np.float64(2)),
            size=torch.Size([3]),
            path=None,
            boxes=torch.rand(3, 4),
            none=torch.zeros(0, 4, dtype=torch.float16),
            mask=torch.ones(2, 3, dtype=torch.bool),
            array=np.arange(3),
            masks=[dict(size=[2, 3], counts=b'a\xff'), b''])
    ]
    found, = read_predictions(write_predictions(tmp_path / 'a.pkl', samples))
    assert found.keys() == samples[0].keys()
    for key, value in samples[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[key], value)
            assert found[key].dtype is value.dtype
        else:
            assert np.array_equal(found[key], value), key


def test_predictions_of_segmentors_are_small(tmp_path):
    labels = torch.randint(150, (1, 8, 8))
    sample = dict(
        img_path='a.jpg',
        ori_shape=(8, 8),
        seg_logits=dict(data=torch.rand(150, 8, 8)),
        gt_sem_seg=dict(data=labels),
        pred_sem_seg=dict(data=labels))
    many = dict(sample, pred_sem_seg=dict(data=labels + 200))
    metric = DumpSegResults(out_file_path=str(tmp_path / 'found.pkl'))
    metric.process({}, [sample, many])
    metric.evaluate(2)
    few, many = read_predictions(tmp_path / 'found.pkl')
    assert set(few) == {'img_path', 'ori_shape', 'pred_sem_seg'}
    assert few['pred_sem_seg']['data'].dtype is torch.uint8
    assert torch.equal(few['pred_sem_seg']['data'], labels.to(torch.uint8))
    assert torch.equal(many['pred_sem_seg']['data'], labels + 200)


class Harmful:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


def test_predictions_run_no_code(tmp_path):
    target = tmp_path / 'made'
    for content in ([dict(a=Harmful(target))], [Harmful(target)],
                    Harmful(target)):
        path = write_predictions(tmp_path / 'bad.pkl', content)
        with pytest.raises(match='mkdir is not allowed'):
            read_predictions(path)
    # Within the bytes of a tensor, which torch unpickles by itself.
    inner = tmp_path / 'inner.pth'
    torch.save(Harmful(target), inner)

    class Storage:

        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.read_bytes(), )

    path = write_predictions(tmp_path / 'bad.pkl', [dict(a=Storage())])
    with pytest.raises(match='could execute code'):
        read_predictions(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()


@pytest.mark.parametrize('content', [
    b'', b'not a pickle',
    pickle.dumps([dict(a=torch.rand(9))])[:-40],
    pickle.dumps(dict(a=1)),
    pickle.dumps([]),
    pickle.dumps([1])
])
def test_damaged_predictions(content, tmp_path):
    path = tmp_path / 'bad.pkl'
    path.write_bytes(content)
    with pytest.raises(match='bad.pkl are .*--out'):
        read_predictions(path)


def test_labels_cover_no_other_one():
    canvas = np.zeros((60, 100, 3), np.uint8)
    labels = Labels(canvas)
    areas = []
    for _ in range(12):
        labels.write('label', 95, 30, (200, 200, 200))
        areas.append(int(labels.taken.sum()))
    # One after the other beside it, until there is no more room.
    steps = np.diff(areas)
    assert steps[0] == areas[0] and set(steps) == {0, areas[0]}
    assert (canvas.any(-1) <= labels.taken).all()


@pytest.mark.parametrize('number', [1, 80, 150])
def test_bars_of_many_classes(number, tmp_path):
    names = [f'class {i}' for i in range(number)]
    values = {name: i / number for i, name in enumerate(names)}
    values['absent'] = None
    path = tmp_path / 'bars.png'
    draw_class_bars(values, dict.fromkeys(values, 3), 'AP', 'objects', path)
    # 40 rows at most, of 24 pixels.
    rows = {1: 1, 80: 40, 150: 38}[number]
    assert len(cv2.imread(str(path))) == 120 + 24 * rows
    assert [p.name for p in tmp_path.iterdir()] == ['bars.png']
