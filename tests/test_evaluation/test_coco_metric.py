"""COCO's numbers by both backends, on known answers and on each other."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from mmhier.datasets import generate_shapes
from mmhier.errors import MMHierError
from mmhier.evaluation.coco_metric import (
    CocoMetric,
    FasterCOCOeval,
    TolerantCOCO,
    coco_eval_class,
)
from .coco_samples import disturbed, rectangle, sample, write_truth

pytest.importorskip('faster_coco_eval')
ROOT = Path(__file__).parents[2]
COCO_MINI = ROOT.parent / 'shared' / 'data' / 'coco_mini'
TWELVE = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10',
          'AR@100', 'AR_s@100', 'AR_m@100', 'AR_l@100')
BACKENDS = ('pycocotools', 'faster')


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    return request.param


def evaluate_by_class(truth,
                      samples,
                      backend,
                      classes=('class 1', 'class 2'),
                      metric=('bbox', 'segm'),
                      **kwargs) -> tuple[dict, dict]:
    metric = CocoMetric(
        ann_file=truth, metric=list(metric), backend=backend, **kwargs)
    metric.dataset_meta = dict(classes=classes)
    # In memory during an evaluation only.
    assert metric._truth is None
    metric.process({}, samples)
    found = metric.evaluate(len(samples)), metric.per_class
    assert metric._truth is None or truth is None
    return found


def evaluate(*args, **kwargs) -> dict:
    return evaluate_by_class(*args, **kwargs)[0]


TRUTH = [(0, 1, 10, 10, 50, 40), (0, 1, 100, 100, 20, 20)]
PERFECT = [(0, 0.9, 10, 10, 50, 40), (0, 0.8, 100, 100, 20, 20)]
# What is found; AP, AP50, AP75, AR@1, AR@10.
KNOWN = {
    'all': (PERFECT, 1, 1, 1, 0.5, 1),
    # Precision 1 at recalls 0.00 to 0.50: 51 of the 101 points.
    'one of two': (PERFECT[:1], 51 / 101, 51 / 101, 51 / 101, 0.5, 0.5),
    # IoU 0.6: right at thresholds 0.5, 0.55 and 0.6.
    'badly placed': ([(0, 0.9, 10, 10, 50, 24),
                      (0, 0.8, 100, 100, 20, 12)], 0.3, 1, 0, 0.15, 0.3),
    # The first is wrong: precision 1/2 then 2/3, which counts backwards.
    'false alarm first': ([(0, 0.95, 150, 10, 20, 20),
                           *PERFECT], 2 / 3, 2 / 3, 2 / 3, 0, 1),
    # Precision 1/1, then 2/3.
    'duplicate': ([PERFECT[0], (0, 0.85, 11, 10, 50, 40),
                   PERFECT[1]], (51 + 50 * 2 / 3) / 101,
                  (51 + 50 * 2 / 3) / 101, (51 + 50 * 2 / 3) / 101, 0.5, 1),
    'other class': ([(1, 0.9, 10, 10, 50, 40),
                     (1, 0.8, 100, 100, 20, 20)], 0, 0, 0, 0, 0),
    'nothing': ([], 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize('name', KNOWN)
def test_known_answers(name, backend, tmp_path):
    found, ap, ap50, ap75, ar1, ar10 = KNOWN[name]
    metrics = evaluate(
        write_truth(tmp_path, TRUTH), [sample(0, found)], backend)
    assert len(metrics) == 24
    for kind in ('bbox', 'segm'):
        values = [metrics[f'coco/{kind}_{key}'] for key in TWELVE]
        assert values[:3] == pytest.approx([ap, ap50, ap75])
        assert values[6:8] == pytest.approx([ar1, ar10])
        # No large object.
        assert values[5] == values[11] == -1


def test_the_log_holds_the_table_of_pycocotools(backend, tmp_path, monkeypatch,
                                                capsys):
    lines: list[str] = []
    monkeypatch.setattr('mmhier.evaluation.coco_metric.print_log',
                        lambda text, **_: lines.extend(text.splitlines()))
    truth = write_truth(tmp_path, TRUTH)
    found = KNOWN['badly placed'][0]
    evaluate(truth, [sample(0, found)], backend, metric=['bbox'])

    coco = COCO(truth)
    reference = COCOeval(
        coco,
        coco.loadRes([
            dict(image_id=0, category_id=1, score=score, bbox=box)
            for _, score, *box in found
        ]), 'bbox')
    reference.evaluate()
    reference.accumulate()
    capsys.readouterr()
    reference.summarize()
    assert lines[1:] == capsys.readouterr().out.splitlines()


def test_nothing_found_is_zero_and_nothing_to_find_minus_one(backend, tmp_path):
    found_nothing = evaluate(
        write_truth(tmp_path, TRUTH), [sample(0, [])],
        backend,
        metric=('bbox', 'segm', 'proposal'))
    assert len(found_nothing) == 30
    assert {
        key: value
        for key, value in found_nothing.items() if value != 0
    } == {
        f'coco/{name}': -1
        for name in ('bbox_mAP_l', 'bbox_AR_l@100', 'segm_mAP_l',
                     'segm_AR_l@100', 'AR_l@100')
    }
    for found in ([], PERFECT):
        metrics = evaluate(
            write_truth(tmp_path, []), [sample(0, found)], backend)
        assert set(metrics.values()) == {-1}


def test_false_alarms_count_on_images_without_ground_truth(backend, tmp_path):
    truth = write_truth(tmp_path, TRUTH, num_images=2)
    alarm = sample(1, [(0, 0.95, 5, 5, 30, 30)])
    metrics = evaluate(truth, [sample(0, PERFECT), alarm], backend)
    assert metrics['coco/bbox_mAP'] == pytest.approx(2 / 3)
    quiet = evaluate(truth, [sample(0, PERFECT), sample(1, [])], backend)
    assert quiet['coco/bbox_mAP'] == pytest.approx(1)


def test_detections_within_a_crowd_of_their_class_are_ignored(
        backend, tmp_path):
    truth = write_truth(tmp_path, [*TRUTH, (0, 1, 120, 10, 70, 70, 'crowd')])
    within = (0, 0.95, 130, 20, 20, 20)
    metrics = evaluate(truth, [sample(0, [within, *PERFECT])], backend)
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP'] == 1
    other_class = (1, 0.95, 130, 20, 20, 20)
    metrics = evaluate(truth, [sample(0, [other_class, *PERFECT])], backend)
    # There is no ground truth of that class, so it has no average precision.
    assert metrics['coco/bbox_mAP'] == 1
    outside = (0, 0.95, 10, 120, 20, 20)
    metrics = evaluate(truth, [sample(0, [outside, *PERFECT])], backend)
    assert metrics['coco/bbox_mAP'] == pytest.approx(2 / 3)


def change(path: str, edit) -> str:
    """Edit the content of an annotation file in place."""
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))
    return path


IDS = {
    'from 0': lambda i: i - 1,
    'large': lambda i: 900100000000 + i,
    'beyond int64': lambda i: 2**63 + i,
    'negative': lambda i: -i,
    'fractions': lambda i: i + 0.25,
    'digits': lambda i: str(i - 1),
    'strings': lambda i: f'{3 - i}f9c-a',
}


@pytest.mark.parametrize('rename', IDS.values(), ids=IDS)
@pytest.mark.parametrize('kind', ['images', 'annotations'])
def test_ids_do_not_matter(kind, rename, backend, tmp_path):
    boxes = [*TRUTH, (1, 1, 10, 10, 50, 40)]
    wrong = [(0, 0.95, 150, 10, 20, 20)]

    def edit(content):
        for entry in content[kind]:
            entry['id'] = rename(entry['id'] + (kind == 'images'))
        if kind == 'images':
            for entry in content['annotations']:
                entry['image_id'] = rename(entry['image_id'] + 1)

    truth = change(write_truth(tmp_path, boxes, num_images=2), edit)
    images = [rename(i) for i in (1, 2)] if kind == 'images' else (0, 1)
    metrics = evaluate(
        truth, [sample(images[0], [*wrong, *PERFECT]),
                sample(images[1], [])], backend)
    # Two of three objects, by the second and third of three detections.
    for name in ('coco/bbox_mAP', 'coco/segm_mAP'):
        assert metrics[name] == pytest.approx(67 * (2 / 3) / 101)


@pytest.mark.parametrize('crowd', ['missing', None, 0, False])
def test_missing_and_null_iscrowd_are_0(crowd, backend, tmp_path):

    def edit(content):
        for annotation in content['annotations']:
            annotation['iscrowd'] = crowd
            if crowd == 'missing':
                del annotation['iscrowd']

    truth = change(write_truth(tmp_path, TRUTH), edit)
    metrics = evaluate(truth, [sample(0, PERFECT)], backend)
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP'] == 1


@pytest.mark.parametrize('crowd', ['0', 2, []])
def test_another_iscrowd_is_refused(crowd, tmp_path):
    truth = change(
        write_truth(tmp_path, TRUTH),
        lambda content: content['annotations'][1].update(iscrowd=crowd))
    with pytest.raises(
            MMHierError, match='truth.json: annotation 2 has iscrowd=.*0 or 1'):
        CocoMetric(truth)


def test_only_images_seen_are_scored(backend, tmp_path, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr('mmhier.evaluation.coco_metric.print_log',
                        lambda line, **_: lines.append(line))
    boxes = [(image, *box[1:]) for image in range(4) for box in TRUTH]
    truth = write_truth(tmp_path, boxes, num_images=4)
    metrics = evaluate(truth, [sample(3, PERFECT), sample(1, PERFECT)], backend)
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP'] == 1
    assert 'the 2 images seen, of 4 in the annotation file' in lines[0]
    with pytest.raises(MMHierError, match='1 of 2 images, such as id 7,'):
        evaluate(truth, [sample(0, PERFECT), sample(7, PERFECT)], backend)


def test_proposal_recall_of_the_images_seen(tmp_path):
    boxes = [(image, *box[1:]) for image in range(3) for box in TRUTH]
    truth = write_truth(tmp_path, boxes, num_images=3)
    metrics = evaluate(
        truth, [sample(2, PERFECT), sample(1, PERFECT)],
        'auto',
        metric=['proposal_fast'],
        proposal_nums=(1, 2))
    assert metrics == {'coco/AR@1': 0.5, 'coco/AR@2': 1.}


def test_area_ranges(backend, tmp_path):
    """Up to 32 x 32 is small, up to 96 x 96 medium; bounds are in both."""
    sides = {'s': 31, 'sm': 32, 'm': 95, 'l': 97}
    for ranges, side in sides.items():
        truth = write_truth(tmp_path, [(0, 1, 0, 0, side, side)])
        found = [(0, 0.9, 0, 0, side, side)]
        metrics = evaluate(truth, [sample(0, found)], backend)
        for name in 'sml':
            expected = pytest.approx(1 if name in ranges else -1)
            for key in (f'mAP_{name}', f'AR_{name}@100'):
                assert metrics[f'coco/bbox_{key}'] == expected
                assert metrics[f'coco/segm_{key}'] == expected


def test_number_of_detections(backend, tmp_path):
    """The detection with the 101st score does not count."""
    truth = write_truth(tmp_path, [(0, 1, 10, 10, 50, 40)])
    alarms = [(0, 0.9 - i / 1e3, 100, 100, 20, 20) for i in range(100)]
    for num_alarms, keys in ((0, ('AR@1', 'AR@10', 'AR@100')), (9, ('AR@10',
                                                                    'AR@100')),
                             (99, ('AR@100', )), (100, ())):
        found = [*alarms[:num_alarms], (0, 0.1, 10, 10, 50, 40)]
        metrics = evaluate(truth, [sample(0, found)], backend)
        for key in ('AR@1', 'AR@10', 'AR@100'):
            assert metrics[f'coco/bbox_{key}'] == (key in keys)


def test_proposals_have_no_class(backend, tmp_path):
    truth = write_truth(tmp_path, TRUTH)
    found = [(1, score, *box) for _, score, *box in PERFECT]
    metrics = evaluate(
        truth, [sample(0, found)],
        backend,
        metric=['proposal'],
        proposal_nums=(1, 10, 50))
    assert metrics == {
        'coco/AR@1': 0.5,
        'coco/AR@10': 1,
        'coco/AR@50': 1,
        'coco/AR_s@50': 1,
        'coco/AR_m@50': 1,
        'coco/AR_l@50': -1
    }


@pytest.mark.parametrize('classwise', [False, True])
def test_precision_of_each_class(classwise, backend, tmp_path):
    """Also where the annotation file does not list them by their ids."""

    def edit(content):
        content['categories'].insert(1, dict(id=7, name='absent'))
        content['categories'].reverse()

    path = change(
        write_truth(tmp_path,
                    [*TRUTH, (0, 2, 10, 100, 40, 40), (0, 2, 150, 10, 40, 40)]),
        edit)
    found = [*PERFECT, (2, 0.9, 10, 100, 40, 40, rectangle(10, 100, 40, 10))]
    # Labels count in the order of the file.
    found = [(2 - label, *rest) for label, *rest in found]
    metrics, per_class = evaluate_by_class(
        path, [sample(0, found)],
        backend, ('class 2', 'absent', 'class 1'),
        classwise=classwise)
    assert per_class == {
        'bbox AP': {
            'class 1': 1.,
            'class 2': pytest.approx(51 / 101),
            'absent': None
        },
        'segm AP': {
            'class 1': 1.,
            'class 2': 0.,
            'absent': None
        }
    }
    assert metrics['coco/bbox_mAP'] == pytest.approx((1 + 51 / 101) / 2)
    found = {k: v for k, v in metrics.items() if k.endswith('_precision')}
    if not classwise:
        assert found == {}
        return
    expected = {
        f'coco/{kind}{name}_precision': np.nan if value is None else value
        for kind, key in (('bbox_', 'bbox AP'), ('segm_', 'segm AP'),
                          ('', 'segm AP'))
        for name, value in per_class[key].items()
    }
    assert found == pytest.approx(expected, nan_ok=True)


def test_asked_items_and_thresholds_only(backend, tmp_path):
    metrics = evaluate(
        write_truth(tmp_path, TRUTH), [sample(0, KNOWN['badly placed'][0])],
        backend,
        metric=['bbox'],
        iou_thrs=[0.5, 0.6, 0.65, 0.7],
        metric_items=['mAP', 'mAP_50', 'AR@100'])
    assert metrics == {
        'coco/bbox_mAP': 0.5,
        'coco/bbox_mAP_50': 1,
        'coco/bbox_AR@100': 0.5
    }
    metrics = evaluate(
        str(tmp_path / 'truth.json'), [sample(0, KNOWN['badly placed'][0])],
        backend,
        metric=['bbox'],
        iou_thrs=0.6)
    assert metrics['coco/bbox_mAP'] == 1
    assert metrics['coco/bbox_mAP_50'] == -1


def test_ground_truth_from_the_dataset(backend):
    """Without ann_file, as mmdet's CocoMetric does it."""
    found = sample(0, PERFECT)
    found['instances'] = [
        dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=0,
            ignore_flag=0,
            mask=rectangle(x, y, w, h)) for _, _, x, y, w, h in TRUTH
    ]
    metrics = evaluate(None, [found], backend)
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP'] == 1


def compare_backends(path: str, seed: int) -> dict:
    samples = disturbed(path, seed)
    classes = [c['name'] for c in COCO(path).loadCats(COCO(path).getCatIds())]
    reference, faster = (
        evaluate(
            path,
            samples,
            backend,
            classes, ('bbox', 'segm', 'proposal'),
            classwise=True) for backend in BACKENDS)
    assert reference.keys() == faster.keys()
    assert len(reference) == 24 + 6 + 3 * len(classes)
    for key, value in reference.items():
        assert faster[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    return reference


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp('shapes')
    generate_shapes(str(root), 1, 24)
    return str(root / 'annotations/instances_val2017.json')


@pytest.mark.parametrize('seed', range(3))
def test_backends_agree_on_generated_shapes(seed, shapes):
    metrics = compare_backends(shapes, seed)
    assert 0.1 < metrics['coco/bbox_mAP'] < 0.9


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no coco_mini')
@pytest.mark.parametrize('seed', range(2))
def test_backends_agree_on_coco_mini(seed):
    path = COCO_MINI / 'annotations/instances_val2017.json'
    crowds = [a for a in COCO(str(path)).anns.values() if a['iscrowd']]
    assert len(crowds) == 5
    metrics = compare_backends(str(path), seed)
    assert 0.1 < metrics['coco/segm_mAP'] < 0.9


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no coco_mini')
def test_ground_truth_of_coco_mini_is_perfect(backend):
    path = str(COCO_MINI / 'annotations/instances_val2017.json')
    truth = COCO(path)
    labels = {c: i for i, c in enumerate(truth.getCatIds())}
    samples = []
    for image, info in truth.imgs.items():
        found = [(labels[a['category_id']], 1., *a['bbox'], truth.annToRLE(a))
                 for a in truth.imgToAnns[image] if not a['iscrowd']]
        samples.append(sample(image, found, (info['height'], info['width'])))
    classes = [c['name'] for c in truth.loadCats(truth.getCatIds())]
    metrics = evaluate(path, samples, backend, classes)
    for kind in ('bbox', 'segm'):
        for name in TWELVE[:6]:
            assert metrics[f'coco/{kind}_{name}'] == pytest.approx(1)


def test_backend_is_faster_where_installed(monkeypatch):
    assert coco_eval_class('auto') is FasterCOCOeval
    assert coco_eval_class('pycocotools') is not FasterCOCOeval
    monkeypatch.setattr('mmhier.evaluation.coco_metric.find_spec',
                        lambda name: None)
    assert coco_eval_class('auto') is coco_eval_class('pycocotools')
    with pytest.raises(ValueError, match='pip install faster-coco-eval'):
        CocoMetric(backend='faster')


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="backend='slow'.*auto, pycocotools"):
        CocoMetric(backend='slow')
    with pytest.raises(ValueError, match='expected three numbers'):
        CocoMetric(proposal_nums=(100, ))
    with pytest.raises(ValueError, match=r"\['AR@300'\].*expected.*AR@100"):
        CocoMetric(metric_items=['mAP', 'AR@300'])
    boxes_only = sample(0, PERFECT)
    del boxes_only['pred_instances']['masks']
    with pytest.raises(ValueError, match='needs masks'):
        evaluate(write_truth(tmp_path, TRUTH), [boxes_only], 'auto')


@pytest.mark.parametrize('package, metric, broken', [
    ('mmdet', 'CocoMetric', 'mmseg.evaluation'),
    ('mmseg', 'IoUMetric', 'mmdet.evaluation'),
])
def test_a_broken_package_takes_no_metric_from_the_other(
        package, metric, broken):
    code = (f'import sys; sys.modules[{broken!r}] = None; '
            f'from {package}.registry import METRICS; '
            f'METRICS.build(dict(type="mmhier.{metric}"))')
    ended = subprocess.run([sys.executable, '-c', code],
                           capture_output=True,
                           text=True,
                           timeout=300)
    assert ended.returncode == 0, ended.stderr


def test_configs_use_it(shapes):
    from mmdet.registry import METRICS
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/coco_instance.py')
    cfg.test_evaluator.ann_file = shapes
    metric = METRICS.build(cfg.test_evaluator)
    assert isinstance(metric, CocoMetric)
    assert isinstance(metric._coco_api, TolerantCOCO)
    assert metric.metrics == ['bbox', 'segm']
    assert metric.proposal_nums == [1, 10, 100]
