"""--amp of the commands that do not train, and --tf32."""
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmhier import apis
from mmhier.apis.predictor import Predictor
from mmhier.cli import benchmark
from mmhier.engine.amp import autocast_dtype, use_test_amp
from mmhier.leaderboard.records import read_record
from mmhier.leaderboard.replaying import replay
from mmhier.leaderboard.submission import submit_coco
from .conftest import CONFIGS, DETECTOR


@pytest.fixture
def checkpoint(detector_run):
    return str(Path(detector_run.work_dir) / 'epoch_1.pth')


@pytest.fixture
def dtypes(detector_run):
    """Dtypes of the maps that a neck returns."""
    found = set()

    def note(module, args, outs):
        if type(module).__name__ == 'FPN':
            # Multiply-adds are counted on fake tensors, in float32.
            found.update(out.dtype for out in outs if type(out) is torch.Tensor)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    yield found
    handle.remove()


def test_a_test_in_bfloat16_is_recorded_and_replayed(checkpoint, coco_root,
                                                     dtypes, tmp_path):
    apis.test(
        DETECTOR,
        checkpoint,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        amp=True)
    assert dtypes == {torch.bfloat16}
    path, = tmp_path.glob('test_record_*.json')
    assert read_record(str(path)).precision == 'bfloat16'
    dtypes.clear()
    assert replay(str(path), work_dir=str(tmp_path / 'replay')).agrees
    assert dtypes == {torch.bfloat16}


def test_infer_in_bfloat16(checkpoint, coco_root, dtypes, tmp_path):
    photos = str(next(coco_root.glob('val2017')))
    arguments = DETECTOR, checkpoint, photos
    found = apis.infer(*arguments, out_dir=str(tmp_path / 'half'), amp=True)
    assert dtypes == {torch.bfloat16}
    assert found['precision'] == 'bfloat16'
    dtypes.clear()
    plain = apis.infer(*arguments, out_dir=str(tmp_path / 'full'))
    assert dtypes == {torch.float32}
    assert plain['precision'] == 'float32'


@pytest.mark.parametrize('name', ['segmentor', 'classifier'])
def test_other_packages_predict_in_bfloat16(name, tmp_path, monkeypatch):
    pytest.importorskip(dict(segmentor='mmseg', classifier='mmpretrain')[name])
    monkeypatch.setattr('mmhier.apis.predictor.load_weights', lambda *_: {})
    image = torch.randint(256, (64, 96, 3), dtype=torch.uint8).numpy()
    predictor = Predictor(
        str(CONFIGS / f'{name}.py'), '', device='cpu', amp_dtype='bfloat16')
    prediction, = predictor.predict([image])
    json.dumps(prediction.record)


def test_a_submission_in_bfloat16(checkpoint, coco_root, dtypes, tmp_path):
    submit_coco(
        DETECTOR,
        checkpoint,
        tasks=['bbox'],
        image_list=str(next(coco_root.glob('annotations/*.json'))),
        image_dir=str(next(coco_root.glob('val2017'))),
        work_dir=str(tmp_path),
        amp=True)
    assert dtypes == {torch.bfloat16}


def test_benchmark_takes_the_precision(monkeypatch):
    found = []
    monkeypatch.setattr('mmhier.analysis.benchmark_report.run_benchmark',
                        lambda arguments: found.extend(arguments.dtypes))
    benchmark.main(['hatnet-tiny', '--amp'])
    benchmark.main(['hatnet-tiny', '--device', 'cuda', '--amp'])
    benchmark.main(['hatnet-tiny', '--amp-dtype', 'bfloat16'])
    assert found == ['bfloat16', 'float16', 'bfloat16']


def test_precisions_that_cannot_be_had():
    with pytest.raises(apis.MMHierError, match='--amp-dtype bfloat16 on CPUs'):
        autocast_dtype('float16', 'cpu')
    cfg = Config(dict(test_cfg=dict(type='ValLoop')))
    with pytest.raises(apis.MMHierError, match='test_cfg.type=ValLoop'):
        use_test_amp(cfg)


def test_tf32_is_chosen_for_the_run(checkpoint, coco_root, tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        apis.test(
            DETECTOR,
            checkpoint,
            data_root=str(coco_root),
            work_dir=str(tmp_path),
            tf32=True)
        assert torch.get_float32_matmul_precision() == 'high'
    finally:
        torch.set_float32_matmul_precision(before)
    path, = tmp_path.glob('test_record_*.json')
    assert 'tf32=True' in read_record(str(path)).config_text
