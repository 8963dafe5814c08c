"""The inferencers of mmdet, mmseg and mmpretrain with configs of mmhier."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, init_default_scope
from mmhier.apis import config_path
from mmhier.apis.predictor import load_model_config
from mmhier.zoo import find_configs
from .lanes import fast_first

ROOT = Path(__file__).parents[1]
NAMES = dict(
    mmdet='retinanet_hatnet-tiny_fpn_1x_coco',
    mmseg='semantic-fpn_accvit-femto_80k_ade20k-512x512',
    mmpretrain='lit-tiny_8xb128_in1k')
FROM_A_WHEEL = '''
import sys, warnings
warnings.simplefilter('ignore')
import mmhier
assert mmhier.__file__.startswith(sys.argv[1]), mmhier.__file__
from mmdet.apis import DetInferencer
from mmhier.apis import config_path
inferencer = DetInferencer(config_path(sys.argv[2]), device='cpu')
assert type(inferencer.model.backbone).__name__ == 'HATNet'
'''


def inferencer_of(scope: str, model: str, weights=None):
    init_default_scope(scope)
    if scope == 'mmdet':
        from mmdet.apis import DetInferencer
        return DetInferencer(model, weights, device='cpu', show_progress=False)
    if scope == 'mmseg':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(model, weights, device='cpu')
    from mmpretrain import ImageClassificationInferencer
    return ImageClassificationInferencer(
        model, pretrained=weights or False, device='cpu')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Path of random weights of a package's config."""

    def save(scope: str) -> str:
        cfg = Config.fromfile(config_path(NAMES[scope]))
        init_default_scope(scope)
        path = tmp_path_factory.mktemp('weights') / f'{scope}.pth'
        torch.manual_seed(1)
        weights = MODELS.build(cfg.model).state_dict()
        classes = [f'name {i}' for i in range(1000)]
        torch.save(
            dict(
                state_dict=weights,
                meta=dict(dataset_meta=dict(classes=classes))), path)
        return str(path)

    return save


def test_every_model_of_a_metafile_has_a_config_of_its_name():
    configs = find_configs()
    for metafile in load(ROOT / 'model-index.yml')['Import']:
        for model in load(ROOT / metafile)['Models']:
            assert configs[model['Name']] == ROOT / model['Config']


@pytest.mark.parametrize('scope', fast_first(NAMES))
def test_by_name_with_weights(scope, checkpoint):
    weights = checkpoint(scope)
    image = np.random.default_rng(0).integers(
        0, 256, (64, 96, 3), dtype=np.uint8)
    stored = torch.load(weights)['state_dict']
    inferencer = inferencer_of(scope, config_path(NAMES[scope]), weights)
    own = inferencer.model.state_dict()
    assert own.keys() == stored.keys()
    assert all((own[name] == stored[name]).all() for name in own)
    if scope == 'mmpretrain':
        result, = inferencer(image)
        assert result['pred_class'] == f'name {result["pred_label"]}'
    else:
        resize = inferencer.pipeline.transforms[1]
        inferencer.pipeline.transforms[1] = type(resize)(
            scale=(96, 64), keep_ratio=True)
        assert inferencer(image)['predictions'] is not None


@pytest.mark.parametrize('scope', NAMES)
def test_by_name_without_weights(scope):
    inferencer = inferencer_of(scope, config_path(NAMES[scope]))
    module = type(inferencer.model.backbone).__module__
    assert module.startswith('mmhier.models')


def test_unknown_name():
    with pytest.raises(ValueError, match='Cannot find model'):
        inferencer_of('mmdet',
                      config_path('retinanet_hatnet-giant_fpn_1x_coco'))


def test_tools_take_names():
    cfg = load_model_config(NAMES['mmdet'])
    assert cfg.filename == config_path(NAMES['mmdet'])


@pytest.mark.slow
def test_names_in_a_wheel(tmp_path):
    """Configs lie in mmhier/.mim there, not beside the package."""
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True)
    process = subprocess.run(
        [sys.executable, '-c', FROM_A_WHEEL, tmp_path, NAMES['mmdet']],
        cwd='/',
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS='1'))
    assert process.returncode == 0, process.stderr
