"""Photos of COCO with no annotation, in gray, and with a crowd."""
import pickle
from pathlib import Path

import pytest
from mmhier import apis
from .conftest import DETECTOR

COCO_MINI = Path(__file__).parents[3] / 'shared' / 'data' / 'coco_mini'
EMPTY, GRAY, CROWD = 508, 10125, 10432

pytestmark = pytest.mark.skipif(
    not COCO_MINI.is_dir(), reason='no coco_mini beside the repository')


def test_unusual_photos_go_through_training_and_testing(tmp_path, capfd):
    options = {
        'model.roi_head.bbox_head.num_classes': 80,
        'model.roi_head.mask_head.num_classes': 80,
        'default_hooks.logger.interval': 1,
        'test_dataloader.dataset.ann_file':
        'annotations/instances_train2017.json',
        'test_dataloader.dataset.data_prefix.img': 'train2017/',
        'test_evaluator.ann_file':
        str(COCO_MINI / 'annotations/instances_train2017.json'),
    }
    for phase in ('train', 'test'):
        options.update({
            f'{phase}_dataloader.dataset.type': 'mmhier.CocoSubset',
            f'{phase}_dataloader.dataset.img_ids': [EMPTY, GRAY, CROWD],
            f'{phase}_dataloader.dataset.metainfo': None
        })
    arguments = dict(
        data_root=str(COCO_MINI),
        work_dir=str(tmp_path),
        cfg_options=options)
    runner = apis.train(DETECTOR, no_validate=True, **arguments)
    # The gray one and the crowd; the empty one is left out.
    dataset = runner.train_dataloader.dataset
    ids = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
    assert ids == [GRAY, CROWD]
    assert runner.iter == 1
    assert 'loss: nan' not in capfd.readouterr().out

    out = tmp_path / 'predictions.pkl'
    metrics = apis.test(
        DETECTOR, str(tmp_path / 'epoch_1.pth'), out=str(out), **arguments)
    predictions = pickle.loads(out.read_bytes())
    assert [p['img_id'] for p in predictions] == [EMPTY, GRAY, CROWD]
    assert 0 <= metrics['coco/segm_mAP'] <= 1
