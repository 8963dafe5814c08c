"""Training and testing through mmhier.apis, in this process."""
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from mmhier import apis
from mmhier.engine.amp import AutocastOptimWrapper
from . import samples
from .conftest import CONFIGS, DETECTOR


def checkpoint_of(runner) -> str:
    return (Path(runner.work_dir) / 'last_checkpoint').read_text()


def test_detector_trains_evaluates_and_saves(detector_run):
    # 5 images with annotations in batches of 2: the empty one is left out.
    assert detector_run.iter == 3
    state = torch.load(checkpoint_of(detector_run), weights_only=False)
    assert state['meta']['epoch'] == 1
    assert state['meta']['dataset_meta']['classes'] == samples.CLASSES


def test_every_image_is_tested_and_the_twelve_numbers_printed(
        detector_run, coco_root, tmp_path, capfd):
    out = tmp_path / 'predictions.pkl'
    metrics = apis.test(
        DETECTOR,
        checkpoint_of(detector_run),
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'work'),
        out=str(out),
        show_dir=str(tmp_path / 'pictures'))
    printed = capfd.readouterr().out
    for kind in ('Average Precision', 'Average Recall'):
        assert printed.count(kind) == 12
    assert 'maxDets=100 ]' in printed and 'maxDets=1000' not in printed
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)

    predictions = pickle.loads(out.read_bytes())
    assert [p['img_id'] for p in predictions] == [1, 2, 3, 4, 5, 6]
    assert predictions[0]['pred_instances']['masks'][0]['size'] == [64, 96]
    assert sorted(p.name for p in (tmp_path / 'pictures').iterdir()) == [
        f'{i:03d}.jpg' for i in range(samples.NUM_IMAGES)
    ]
    assert [p.name for p in tmp_path.glob('*.pkl')] == ['predictions.pkl']


def test_predictions_are_not_overwritten_unasked(detector_run, tmp_path):
    out = tmp_path / 'predictions.pkl'
    out.write_bytes(b'earlier')
    with pytest.raises(apis.MMHierError, match='exists.*--overwrite'):
        apis.test(
            DETECTOR,
            checkpoint_of(detector_run),
            work_dir=str(tmp_path),
            out=str(out))
    assert out.read_bytes() == b'earlier'


def test_a_run_is_not_overwritten_unasked(detector_run, coco_root):
    with pytest.raises(apis.MMHierError, match='epoch_1.pth.*--resume'):
        apis.train(
            DETECTOR, data_root=str(coco_root), work_dir=detector_run.work_dir)


def test_resume_goes_on_where_the_run_stopped(detector_run, coco_root,
                                              tmp_path):
    shutil.copy(checkpoint_of(detector_run), tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    runner = apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        resume='auto',
        no_validate=True,
        cfg_options={'train_cfg.max_epochs': 2})
    assert (runner.epoch, runner.iter) == (2, 6)
    # The optimizer's own step count went on as well.
    steps = {
        int(s['step'])
        for s in runner.optim_wrapper.optimizer.state.values()
    }
    assert steps == {6}


@pytest.mark.slow
def test_amp_on_a_cpu_is_bfloat16(coco_root, tmp_path):
    runner = apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        amp=True,
        no_validate=True)
    assert isinstance(runner.optim_wrapper, AutocastOptimWrapper)
    layer = torch.nn.Linear(4, 4)
    with runner.optim_wrapper.optim_context(layer):
        assert layer(torch.ones(1, 4)).dtype is torch.bfloat16
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason='float16 is possible')
def test_amp_in_float16_needs_a_gpu(coco_root, tmp_path):
    with pytest.raises(apis.MMHierError, match='--amp-dtype bfloat16'):
        apis.train(
            DETECTOR,
            data_root=str(coco_root),
            work_dir=str(tmp_path),
            amp_dtype='float16')


@pytest.mark.slow
def test_auto_scale_lr(coco_root, tmp_path):
    runner = apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        auto_scale_lr=True,
        no_validate=True)
    # Batch 2 instead of 16.
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == 1e-4 * 2 / 16


@pytest.mark.slow
@pytest.mark.parametrize('name, data, metric', [
    ('segmentor', 'masks_root', 'mIoU'),
    ('classifier', 'folders_root', 'accuracy/top1'),
])
def test_other_packages(name, data, metric, tmp_path, request):
    pytest.importorskip(dict(segmentor='mmseg', classifier='mmpretrain')[name])
    config = str(CONFIGS / f'{name}.py')
    root = str(request.getfixturevalue(data))
    work_dir = tmp_path / 'work'
    runner = apis.train(config, data_root=root, work_dir=str(work_dir))
    metrics = apis.test(
        config,
        checkpoint_of(runner),
        data_root=root,
        work_dir=str(work_dir),
        out=str(tmp_path / 'predictions.pkl'),
        show_dir=str(tmp_path / 'pictures'))
    assert metric in metrics
    pictures = [
        p for p in (tmp_path / 'pictures').rglob('*')
        if p.suffix in ('.png', '.jpg')
    ]
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(pictures) == len(predictions) > 0


@pytest.mark.slow
def test_tta_uses_the_config_s_model_and_pipeline(masks_root, tmp_path):
    pytest.importorskip('mmseg')
    config = str(CONFIGS / 'segmentor.py')
    runner = apis.train(
        config,
        data_root=str(masks_root),
        work_dir=str(tmp_path),
        no_validate=True)
    arguments = dict(data_root=str(masks_root), work_dir=str(tmp_path))
    metrics = apis.test(config, checkpoint_of(runner), tta=True, **arguments)
    assert 'mIoU' in metrics


def test_tta_without_a_tta_model(detector_run, tmp_path):
    with pytest.raises(apis.MMHierError, match='--tta needs tta_model'):
        apis.test(
            str(CONFIGS / 'classifier.py'),
            checkpoint_of(detector_run),
            work_dir=str(tmp_path),
            tta=True)
