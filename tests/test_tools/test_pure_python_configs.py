"""Types may be classes, and default_scope None, wherever names are taken."""
from typing import Any

import pytest
from mmengine.config import Config
from mmhier.apis import load_config, train
from mmhier.engine.build import build_model
from mmhier.engine.config import type_name
from ..config_zoo import ROOT, read, register_all
from .samples import CLASSES

PURE = ROOT / 'configs/pure_python'
SAME = {
    'retinanet_hatnet_tiny_fpn_1x_coco':
    'configs/hatnet/retinanet_hatnet-tiny_fpn_1x_coco.py',
    'hvt_ti_1_8xb128_in1k': 'configs/hvt/hvt-ti-1_8xb128_in1k.py',
}
# Neither a default scope nor names of mmdet's types. The Resize stands for
# small images.
DETECTOR = '''
from mmdet.datasets import AspectRatioBatchSampler, CocoDataset
from mmdet.datasets.transforms import (LoadAnnotations, PackDetInputs,
                                       RandomFlip, Resize)
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models import RetinaNet
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmhier.evaluation.coco_metric import CocoMetric
from mmhier.models import HATNet

with read_base():
    from ._base_.datasets.coco_detection import *
    from ._base_.default_runtime import *
    from ._base_.models.retinanet_fpn import *
    from ._base_.schedules.schedule_1x import *

default_scope = None
default_hooks.visualization.type = DetVisualizationHook
visualizer.type = DetLocalVisualizer
model.update(
    type=RetinaNet,
    backbone=dict(
        type=HATNet,
        arch=dict(
            embed_dims=(16, 16, 32, 32),
            depths=(1, 1, 1, 1),
            head_dim=16,
            expansions=(2, 2, 2, 2),
            kernel_sizes=(3, 3, 3, 3),
            grid_sizes=(8, 7, 7, 1),
            ds_ratios=(8, 4, 2, 1))))
model.neck.update(in_channels=[16, 16, 32, 32], out_channels=16)
model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1)
train_pipeline[1].type = LoadAnnotations
train_pipeline[2] = dict(type=Resize, scale=(96, 64), keep_ratio=True)
train_pipeline[3].type = RandomFlip
train_pipeline[4].type = PackDetInputs
test_pipeline[1] = train_pipeline[2]
test_pipeline[2].type = LoadAnnotations
test_pipeline[3].type = PackDetInputs
train_dataloader.batch_sampler.type = AspectRatioBatchSampler
train_dataloader.dataset.update(type=CocoDataset, pipeline=train_pipeline)
val_dataloader.dataset.update(type=CocoDataset, pipeline=test_pipeline)
for loader in (train_dataloader, val_dataloader):
    loader.update(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
val_evaluator.type = CocoMetric
test_evaluator = val_evaluator
optim_wrapper.type = OptimWrapper
train_cfg.max_epochs = 1
'''


def names_of_types(value: Any) -> Any:
    """A config with its types as names without scope."""
    if isinstance(value, dict):
        return {
            key: type_name(item) if key == 'type' else names_of_types(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [names_of_types(item) for item in value]
    return value


@pytest.mark.parametrize('stem', SAME)
def test_says_the_same_as_the_text_config(stem, tmp_path):
    pure = load_config(str(PURE / f'{stem}.py'), work_dir=str(tmp_path))
    assert isinstance(pure.model.type, type)
    text = names_of_types(read(SAME[stem]).to_dict())
    pure = names_of_types(pure.to_dict())
    variables = {'backbone', 'in_channels'}
    assert {
        key: pure[key]
        for key in text.keys() - variables
    } == {
        key: text[key]
        for key in text.keys() - variables
    }


@pytest.mark.parametrize('stem', SAME)
def test_dumps_and_builds(stem, tmp_path):
    register_all()
    cfg = load_config(str(PURE / f'{stem}.py'), work_dir=str(tmp_path))
    cfg.dump(tmp_path / 'config.py')
    for one in (cfg, Config.fromfile(tmp_path / 'config.py')):
        assert type(build_model(one)).__name__ == type_name(cfg.model.type)


@pytest.mark.slow
@pytest.mark.parametrize('amp', [False, True])
def test_trains_without_a_default_scope(amp, tmp_path, coco_root):
    """Checks of the data and mixed precision included."""
    path = tmp_path / 'config.py'
    (tmp_path / '_base_').symlink_to(ROOT / 'configs' / '_base_')
    path.write_text(DETECTOR)
    runner = train(
        str(path),
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'work'),
        classes='auto',
        amp=amp)
    assert runner.epoch == 1
    dataset = runner.train_dataloader.dataset
    assert dataset.metainfo['classes'] == CLASSES
    assert runner.model.bbox_head.num_classes == len(CLASSES)
    assert runner.message_hub.get_scalar('val/coco/bbox_mAP').current() >= 0
