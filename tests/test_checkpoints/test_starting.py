"""Trainings start from official weights, or say that they do not."""
from pathlib import Path

import pytest
import torch
from mmhier.apis import MMHierError, check_config, train
from mmhier.checkpoints import (
    match_backbone_weights,
    official_weights,
    read_checkpoint,
    unwrap_state_dict,
)
from mmhier.engine.pretrained import find_pretrained
from mmhier.registry import MODELS
from tests import golden
from tests.config_zoo import CONFIGS, ROOT, ZOO, read
from tests.stand_ins import write_stand_ins
from tests.test_tools import samples

NAME = 'mask-rcnn_hatnet-tiny_fpn_1x_coco'
COCO_MINI = ROOT.parent / 'shared' / 'data' / 'coco_mini'
TRANSFERRED = [
    name for name in ZOO if 'in1k' not in name and 'accvit' not in name
]


def checkpoint_of(name: str) -> str | None:
    init_cfg = read(name).model.backbone.get('init_cfg')
    return init_cfg and init_cfg.checkpoint


def test_recipes_name_the_weights_of_their_backbone():
    for name in CONFIGS:
        if name in TRANSFERRED:
            weights = official_weights()[checkpoint_of(name)]
            variant = Path(name).stem.split('_')[1].removesuffix('-ws4')
            assert weights.name == f'{variant}_in1k'
        elif Path(name).parent.name == 'timm':
            assert checkpoint_of(name).startswith('timm://'), name
        elif 'pure_python' not in name:
            assert checkpoint_of(name) is None, name


@pytest.fixture(scope='module')
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stand_ins')
    write_stand_ins(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMHIER_WEIGHTS', str(folder))
        yield folder


@pytest.mark.parametrize('name', TRANSFERRED)
def test_weights_fit_the_backbone(stand_ins, name):
    cfg = read(name)
    assert f'({stand_ins}/' in find_pretrained(cfg)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    report, _ = match_backbone_weights(
        backbone, unwrap_state_dict(read_checkpoint(checkpoint_of(name))))
    assert report.fraction == 1 and not report.missing, str(report)


@pytest.mark.parametrize('name, line', [
    ('configs/accvit/mask-rcnn_accvit-tiny_fpn_1x_coco.py',
     "random weights: no official ones exist; train mmhier's in1k config first "
     'or pass your own'),
    ('configs/hatnet/hatnet-tiny_8xb128_in1k.py',
     'random weights: the model has no init_cfg'),
])
def test_random_weights_are_told(name, line):
    assert find_pretrained(read(name)).startswith(line)


def test_from_scratch(no_network):
    cfg = read(f'configs/hatnet/{NAME}.py')
    cfg.load_from = 'hatnet-tiny_in1k'
    assert find_pretrained(
        cfg, from_scratch=True) == 'random weights: --from-scratch'
    assert cfg.model.backbone.init_cfg is None and cfg.load_from is None


def test_unreachable_weights_end_a_training_before_data(no_network, tmp_path):
    with pytest.raises(
            MMHierError,
            match='^hatnet-tiny_in1k cannot be fetched .*: run `curl -LO http'):
        train(NAME, data_root='/nowhere', work_dir=str(tmp_path / 'work'))
    with pytest.raises(MMHierError, match='/nowhere'):
        train(
            NAME,
            data_root='/nowhere',
            work_dir=str(tmp_path / 'work'),
            from_scratch=True)


def test_unreachable_weights_are_a_finding(no_network):

    def findings(**kwargs) -> list[tuple[str, str]]:
        found = check_config(NAME, data_root='/nowhere', **kwargs)
        return [(f.level, f.message) for f in found if f.subject == 'weights']

    (level, message), = findings()
    assert level == 'error' and 'run `curl -LO https://' in message
    assert findings(from_scratch=True) == [('note',
                                            'random weights: --from-scratch')]


@pytest.mark.slow
@pytest.mark.parametrize('source', ['generated', 'coco_mini'])
def test_training_of_the_readme(source, weights_server, tmp_path):
    if source == 'generated':
        root, classes = samples.write_coco(tmp_path / 'coco'), 'auto'
    elif COCO_MINI.is_dir():
        root, classes = COCO_MINI, None
    else:
        pytest.skip('no coco_mini')
    weights_server.put('HAT-Net_Tiny.pth',
                       golden.official_state_dict('hatnet_tiny'))
    runner = train(
        NAME,
        data_root=str(root),
        classes=classes,
        work_dir=str(tmp_path / 'work'),
        no_validate=True,
        cfg_options={
            'train_cfg.max_epochs': 1,
            'train_dataloader.batch_size': 1,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.indices': 2,
            'train_dataloader.dataset.pipeline.2.scale': (128, 96),
        })
    log, = Path(runner.log_dir).glob('*.log')
    text = log.read_text()
    assert ('pretrained weights: model.backbone from hatnet-tiny_in1k '
            f'({tmp_path}/cache/mmhier/HAT-Net_Tiny.pth)') in text
    assert '100.0 % of the parameters' in text
    assert weights_server.downloads() == ['HAT-Net_Tiny.pth']
