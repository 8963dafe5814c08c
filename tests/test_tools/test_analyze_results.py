"""Analysis of the predictions of a test run, as a command."""
import json
import sys
from pathlib import Path

import pytest
from mmhier import apis
from .conftest import CONFIGS, DETECTOR
from .test_command_line import TOOLS, call

TOOL = TOOLS / 'analysis_tools' / 'analyze_results.py'


@pytest.fixture(scope='module')
def predictions(detector_run, coco_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('predictions')
    apis.test(
        DETECTOR, (Path(detector_run.work_dir) / 'last_checkpoint').read_text(),
        data_root=str(coco_root),
        work_dir=str(folder / 'work'),
        out=str(folder / 'predictions.pkl'))
    return folder / 'predictions.pkl'


def test_predictions_of_a_test_run(predictions, coco_root, tmp_path):
    ended = call(sys.executable, TOOL, DETECTOR, predictions, '--out',
                 tmp_path / 'out', '--data-root', coco_root, '--iou-type',
                 'segm', '--score-thr', '0.01')
    assert ended.returncode == 0, ended.stderr
    assert 'segm_mAP_50' in ended.stdout
    assert 'AP50 lost to missed' in ended.stdout
    result = json.loads((tmp_path / 'out/analysis.json').read_text())
    assert result['num_images'] == 6
    assert f"segm_mAP_50{result['AP50']:13.3f}" in ended.stdout
    assert ended.stdout.splitlines()[-1].endswith(
        'analysis.json, class_ap.png, confusion_matrix.png, errors.png, '
        'worst_images.png')


def test_mistakes_end_with_one_line(predictions, folders_root, tmp_path):
    ended = call(sys.executable, TOOL, CONFIGS / 'classifier.py', predictions,
                 '--out', tmp_path, '--data-root', folders_root)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        'error: predictions of detectors (mmdet) and segmentors (mmseg) can '
        'be analyzed, not those of mmpretrain')
    assert 'Traceback' not in ended.stderr
