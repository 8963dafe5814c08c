"""--track: runs logged by TensorBoard and MLflow in a local folder."""
import sys

import pytest
from mmengine.config import Config
from mmhier import apis
from mmhier.cli import train as command
from mmhier.engine import tracking
from mmhier.engine.tracking import use_tracker
from mmhier.errors import MMHierError
from .conftest import DETECTOR

OPTIONS = {
    'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2),
    'default_hooks.logger.interval': 1
}


def train(coco_root, tmp_path, name):
    apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'parts'),
        no_validate=True,
        seed=0,
        track=name,
        cfg_options=OPTIONS)
    folder, = (tmp_path / 'parts').glob('*/vis_data')
    return folder


@pytest.mark.slow
def test_tensorboard(coco_root, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing import event_accumulator
    folder = train(coco_root, tmp_path, 'tensorboard')
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars('loss')] == [1, 2]


@pytest.mark.slow
def test_mlflow(coco_root, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    folder = train(coco_root, tmp_path, 'mlflow')
    client = mlflow.MlflowClient(f'sqlite:///{folder.parents[1]}/mlflow.db')
    experiment = client.get_experiment_by_name('parts')
    run, = client.search_runs([experiment.experiment_id])
    steps = client.get_metric_history(run.info.run_id, 'loss')
    assert [metric.step for metric in steps] == [1, 2]
    assert run.data.params['optim_wrapper.optimizer.type'] == 'AdamW'
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert 'config.py' in names


@pytest.mark.parametrize('name', tracking.TRACKERS)
def test_missing_package_is_named_before_data_is_read(tmp_path, monkeypatch,
                                                      name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MMHierError, match=rf'pip install "mmhier\[{name}\]"'):
        command.main([
            DETECTOR, '--track', name, '--data-root',
            str(tmp_path / 'gone'), '--work-dir',
            str(tmp_path / 'run')
        ])


@pytest.mark.parametrize('name, kind', [
    ('tensorboard', 'TensorboardVisBackend'),
    ('mlflow', 'MLflowVisBackend'),
    ('wandb', 'WandbVisBackend'),
    ('aim', 'AimVisBackend'),
])
def test_backend_is_added_once(monkeypatch, name, kind):
    monkeypatch.setattr(tracking, 'find_spec', lambda name: name)
    cfg = Config(dict(work_dir='work_dirs/parts'))
    for _ in range(2):
        use_tracker(cfg, name)
        assert [entry.type for entry in cfg.visualizer.vis_backends
                ] == ['LocalVisBackend', kind]
