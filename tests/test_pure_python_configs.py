"""Types may be classes, and default_scope None, wherever names are taken."""
from typing import Any

import pytest
from mmengine.config import Config
from mmhier.apis import load_config
from mmhier.engine.build import build_model
from mmhier.engine.config import type_name
from .config_zoo import ROOT, read, register_all

PURE = ROOT / 'configs/pure_python'
SAME = {
    'retinanet_hatnet_tiny_fpn_1x_coco':
    'configs/hatnet/retinanet_hatnet-tiny_fpn_1x_coco.py',
    'hvt_ti_1_8xb128_in1k': 'configs/hvt/hvt-ti-1_8xb128_in1k.py',
}
# Without a default scope, every type of mmdet's is a class.
DETECTOR = '''
from mmengine.config import read_base
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models import (FPN, AnchorGenerator, DeltaXYWHBBoxCoder,
                          DetDataPreprocessor, FocalLoss, L1Loss,
                          MaxIoUAssigner, PseudoSampler, RetinaHead, RetinaNet)
from mmdet.visualization import DetLocalVisualizer
from mmengine.optim import OptimWrapper
from mmhier.evaluation.coco_metric import CocoMetric
from mmhier.models import HATNet
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
