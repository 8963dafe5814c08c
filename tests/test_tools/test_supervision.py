"""Predictions as supervision's Detections and in COCO's results format."""
import json

import numpy as np
import pytest
from pycocotools import mask as mask_api
from mmhier import apis
from mmhier.apis import MMHierError, Prediction, Predictor
from mmhier.apis.coco_results import CocoResults
from .conftest import DETECTOR
from .samples import CLASSES


@pytest.fixture(scope='module')
def checkpoint(detector_run) -> str:
    return f'{detector_run.work_dir}/epoch_1.pth'


def test_detections(checkpoint, coco_root):
    supervision = pytest.importorskip('supervision')
    predictor = Predictor(DETECTOR, checkpoint, score_thr=0.)
    found = predictor(str(coco_root / 'val2017/003.jpg'))
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    instances = found.record['instances']
    assert len(detections) == len(instances) == 10
    for i, instance in enumerate(instances):
        x, y, width, height = instance['bbox']
        np.testing.assert_allclose(
            detections.xyxy[i], [x, y, x + width, y + height], rtol=1e-5)
        assert detections.confidence[i] == pytest.approx(instance['score'])
        assert detections.class_id[i] == instance['label']
        assert detections.data['class_name'][i] == instance['class']
        assert (detections.mask[i] == mask_api.decode(instance['mask'])).all()
    none = Predictor(DETECTOR, checkpoint, score_thr=1.)
    assert len(none(str(coco_root / 'val2017/003.jpg')).to_supervision()) == 0
    with pytest.raises(MMHierError, match='gone.jpg cannot be read'):
        predictor('gone.jpg')


def test_segments_and_classes():
    pytest.importorskip('supervision')
    labels = np.zeros((4, 6), np.uint8)
    labels[1:3, 2:5] = 1
    segments = [{'label': 0, 'class': 'ground'}, {'label': 1, 'class': 'tile'}]
    picture = np.zeros((4, 6, 3), np.uint8)
    found = Prediction(dict(segments=segments), picture, labels)
    detections = found.to_supervision()
    assert detections.data['class_name'].tolist() == ['ground', 'tile']
    assert (detections.mask[1] == (labels == 1)).all()
    assert detections.xyxy[1].tolist() == [2, 1, 4, 2]
    with pytest.raises(MMHierError, match='needs a detector or a segmentor'):
        Prediction(dict(top=[]), picture).to_supervision()


def test_coco_results(checkpoint, coco_root, tmp_path):
    pycocotools = pytest.importorskip('pycocotools.coco')
    ann_file = coco_root / 'annotations/instances_val2017.json'
    summary = apis.infer(
        DETECTOR,
        checkpoint,
        str(coco_root / 'val2017'),
        out_dir=str(tmp_path),
        score_thr=0.,
        coco=str(ann_file))
    rows = json.loads((tmp_path / 'coco_results.json').read_text())
    assert len(rows) == sum(len(i['instances']) for i in summary['images'])
    # Images are numbered from 1 and categories are 10, 20 and 30.
    entry = summary['images'][3]
    mine = [row for row in rows if row['image_id'] == 4]
    assert entry['image_id'] == 4 and entry['file'].endswith('003.jpg')
    for row, instance in zip(mine, entry['instances'], strict=True):
        assert row['bbox'] == instance['bbox']
        assert row['segmentation'] == instance['mask']
        assert row['category_id'] == 10 * (1 + CLASSES.index(instance['class']))
    truth = pycocotools.COCO(str(ann_file))
    assert len(truth.loadRes(rows).anns) == len(rows)


def test_ids_of_coco_results(tmp_path):
    instance = {'label': 2, 'class': 'c', 'score': 0.5, 'bbox': [0, 0, 1, 1]}
    row, = CocoResults(['x/a.jpg', 'x/b.jpg']).rows('x/b.jpg', [instance])
    assert (row['image_id'], row['category_id']) == (2, 3)
    path = tmp_path / 'truth.json'
    image = dict(id='seven', file_name='x/b.jpg', width=1, height=1)
    path.write_text(
        json.dumps(dict(images=[image], categories=[dict(id=9, name='c')])))
    results = CocoResults(['/data/x/b.jpg'], str(path))
    row, = results.rows('/data/x/b.jpg', [instance])
    assert (row['image_id'], row['category_id']) == ('seven', 9)
    with pytest.raises(MMHierError, match='y.jpg is not among the images'):
        CocoResults(['y.jpg'], str(path))
    with pytest.raises(MMHierError, match='has no category d'):
        results.check_classes(['c', 'd'])
