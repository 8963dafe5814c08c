"""Records that no run wrote, for tests of what reads records."""
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from mmengine.config import Config
from mmhier.leaderboard.published import read_zoo
from mmhier.leaderboard.records import (
    VERSION,
    CostRecord,
    DataRecord,
    EnvironmentRecord,
    EvaluationRecord,
    FileRecord,
    ModelRecord,
    TrainingRecord,
    TrainingSession,
)
from mmhier.leaderboard.run_facts import as_json, resizing_of

DETECTOR = 'mask-rcnn_lit-tiny_fpn_1x_coco'
COCO = DataRecord('CocoDataset', 'val2017', 'data/coco',
                  [FileRecord('instances_val2017.json', 9, 'a' * 64)], 5000,
                  5000, 'b' * 64, 80)


@cache
def _detector():
    model = read_zoo()[DETECTOR]
    return model, Config.fromfile(model.config)


def evaluation_record(**changes) -> EvaluationRecord:
    """Record of the zoo's Mask R-CNN with LIT-Ti on the whole of COCO."""
    model, cfg = _detector()
    values = dict(
        version=VERSION,
        kind='evaluation',
        started='2026-01-01T10:00:00+00:00',
        command=['tools/test.py'],
        arguments=dict(config=str(model.config)),
        config=str(model.config),
        config_text='a = 1\n',
        work_dir='work_dirs/a',
        task='detection',
        data=[COCO],
        environment=EnvironmentRecord('3.11', 'Linux', 'a GPU', 4,
                                      dict(torch='2.11.0'), 'torchvision',
                                      None),
        model=ModelRecord('MaskRCNN', 'LIT', 'tiny', 'MaskRCNN', '12 epochs',
                          model.params, 3 * 10**11, [800, 1088]),
        seed=1,
        deterministic=False,
        launcher='none',
        world_size=1,
        precision='float32',
        finished='2026-01-01T10:10:00+00:00',
        checkpoint=FileRecord('work_dirs/a/epoch_12.pth', 7, 'c' * 64),
        checkpoint_epoch=12,
        checkpoint_iter=87960,
        tta=False,
        resizing=resizing_of(cfg),
        test_cfg=as_json(cfg.model.test_cfg),
        metrics={
            'coco/bbox_mAP': 0.43,
            'coco/segm_mAP': 0.386,
            'coco/bbox_mAP_s': -1.
        },
        per_class={'bbox AP': {
            'cat': 0.5,
            'dog': None
        }},
        cost=CostRecord(100., 50., 2**30, 'CUDA allocator'))
    return EvaluationRecord(**{**values, **changes})


def training_record(**changes) -> TrainingRecord:
    """Record of the training behind :func:`evaluation_record`."""
    test = evaluation_record()
    shared = {
        key: getattr(test, key)
        for key in ('version', 'started', 'command', 'arguments', 'config',
                    'config_text', 'work_dir', 'task', 'data', 'environment',
                    'model', 'deterministic', 'launcher', 'world_size',
                    'precision')
    }
    values = dict(
        **shared,
        kind='training',
        seed=42,
        sessions=[
            TrainingSession('2026-01-01T00:00:00+00:00', None, 0, None,
                            'one/vis_data/scalars.json'),
            TrainingSession('2026-01-01T05:00:00+00:00',
                            '2026-01-01T09:00:00+00:00', 10, 30,
                            'two/vis_data/scalars.json')
        ],
        final_checkpoint=test.checkpoint,
        cost=None)
    return TrainingRecord(**{**values, **changes})


def write_scalars(path: Path, entries: list) -> None:
    """Log of mmengine, ending as in a killed training."""
    path.parent.mkdir(parents=True)
    lines = [json.dumps(entry) for entry in entries]
    path.write_text('\n'.join([*lines, '{"loss": 0.']))


def with_data(**changes) -> list:
    """Data of :func:`evaluation_record` with other values."""
    return [replace(COCO, **changes)]
