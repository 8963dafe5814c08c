"""docs/plug_in.md: its configs, in the frameworks' own tools and registries."""
import importlib
import re
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmhier.apis import MMHierError, load_config
from mmhier.engine.build import build_model
from mmhier.models import backbones
from ..golden import official_state_dict
from .pages import ROOT, blocks, commands

PAGE = 'docs/plug_in.md'
TEXT = (ROOT / PAGE).read_text()
FOLDERS = dict(mmdet='mask_rcnn', mmseg='upernet', mmpretrain='resnet')
(PLUGGED, SEGMENTOR, CLASSIFIER, CODE, NAMED, FROZEN, SLOWER, DECAYED, CONVNEXT,
 DILATED, PURE) = blocks(PAGE, 'python')
# Fewer proposals and small images, for the trainer of mmdet.
SMALL = [
    'train_dataloader.num_workers=0', 'train_dataloader.batch_size=2',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    'train_dataloader.dataset.metainfo.classes=("box","bar","tile")',
    'model.roi_head.bbox_head.num_classes=3',
    'model.roi_head.mask_head.num_classes=3',
    'model.train_cfg.rpn_proposal.max_per_img=20',
    'model.train_cfg.rcnn.sampler.num=16', 'train_cfg.max_epochs=1',
    'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
    'default_hooks.checkpoint.save_optimizer=False'
]


def configs_of(package: str) -> Path:
    module = importlib.import_module(package)
    return Path(module.__file__).parent / '.mim' / 'configs'


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Read a config of the page in a checkout of a framework."""
    monkeypatch.chdir(tmp_path)

    def load_config(code: str, package: str = 'mmdet') -> Config:
        source, copy = configs_of(package), tmp_path / 'configs'
        if not copy.exists():
            copy.mkdir()
            (copy / '_base_').symlink_to(source / '_base_')
            folder = copy / FOLDERS[package]
            folder.mkdir()
            for path in (source / folder.name).glob('*_r50_*.py'):
                (folder / path.name).symlink_to(path)
            for path in (source / folder.name).glob('resnet50_*.py'):
                (folder / path.name).symlink_to(path)
        name, = re.findall(
            r'`configs/(\S+)`(?:;[^`]*)?:\n\n```python\n' + re.escape(code),
            TEXT) or ['mask_rcnn/own.py']
        (copy / name).write_text(code)
        cfg = Config.fromfile(copy / name)
        init_default_scope(package)
        return cfg

    return load_config


def build(cfg: Config) -> torch.nn.Module:
    registry = importlib.import_module(f'{cfg.default_scope}.registry').MODELS
    cfg.model.backbone.pop('init_cfg', None)
    return revert_sync_batchnorm(registry.build(cfg.model))


def test_mmdets_own_trainer_takes_the_config(load, tmp_path, coco_root,
                                             monkeypatch, capfd):
    load(PLUGGED)
    torch.save(
        official_state_dict('hatnet_tiny'), tmp_path / 'HAT-Net_Tiny.pth')
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/coco').symlink_to(coco_root)
    python, tool, *arguments = commands(PAGE)[0].split()
    assert (python, tool) == ('python', 'tools/train.py')
    monkeypatch.setattr('sys.argv', [tool, *arguments, '--cfg-options', *SMALL])
    runpy.run_path(str(configs_of('mmdet').parent / tool), run_name='__main__')
    printed = ''.join(capfd.readouterr())
    assert 'hatnet-tiny_in1k' in printed and '100.0 %' in printed
    state = torch.load(
        'work_dirs/mask-rcnn_hatnet-tiny_fpn_1x_coco/epoch_1'
        '.pth',
        weights_only=False)['state_dict']
    assert state['neck.lateral_convs.3.conv.weight'].shape[1] == 384


@pytest.mark.parametrize('code, package, channels', [
    (SEGMENTOR, 'mmseg', 150),
    (CLASSIFIER, 'mmpretrain', 1000),
])
def test_other_frameworks_take_the_config(code, package, channels, load):
    cfg = load(code, package)
    assert cfg.default_scope == package
    model = build(cfg).eval()
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 64, 64), mode='tensor')
    assert outputs.shape[1] == channels


def test_code():
    exec(CODE, {})


def test_table_of_channels():
    rows = re.findall(r'^\|(?: `mmhier\.(\w+)` \||) (`[^|]+`) \| ([\d, ]+) \|$',
                      TEXT.replace('| | ', '| '), re.MULTILINE)
    found, family = {}, None
    for name, archs, channels in rows:
        family = name or family
        for arch in re.findall('`(.+?)`', archs):
            found[family, arch] = tuple(map(int, channels.split(', ')))
    expected = {}
    for name in backbones.__all__:
        cls = getattr(backbones, name)
        for arch in cls.arch_zoo:
            with torch.device('meta'):
                expected[name, arch] = cls(arch).out_channels
    assert found == expected


def test_table_of_arguments():
    rows = re.findall(
        r'^\| `(\w+)` \| ',
        TEXT[TEXT.index('## Arguments'):TEXT.index('`norm_cfg` of LIT')],
        re.MULTILINE)
    for name in backbones.__all__:
        text = getattr(backbones, name).__doc__
        assert all(f'{row} (' in text or f'``{row}``' in text
                   for row in rows), name
        assert ('norm_cfg (' in text) == (name != 'HATNet')


def test_channels_that_are_not_the_backbones(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, tool, config, _, option = commands(PAGE)[1].split()
    assert tool == 'tools/train.py'
    key, value = option.split('=')
    cfg = load_config(str(ROOT / config), cfg_options={key: value})
    with pytest.raises(MMHierError) as error, torch.device('meta'):
        build_model(cfg)
    assert f'error: {error.value}' in TEXT.splitlines()


def test_channels_by_variable(tmp_path):
    code = NAMED.replace("'../", f"'{ROOT}/configs/")
    (tmp_path / 'config.py').write_text(code)
    cfg = Config.fromfile(tmp_path / 'config.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = build(cfg)
    assert model.neck.in_channels == list(model.backbone.out_channels)


def test_pure_python_config(tmp_path):
    (tmp_path / '_base_').symlink_to(ROOT / 'configs/_base_')
    (tmp_path / 'pure').mkdir()
    (tmp_path / 'pure' / 'config.py').write_text(PURE)
    cfg = Config.fromfile(tmp_path / 'pure' / 'config.py')
    assert cfg.model.backbone.type is backbones.HATNet
    with torch.device('meta'):
        model = build_model(cfg)
    assert model.neck.in_channels == list(model.backbone.out_channels)


@pytest.mark.parametrize('code, folder', [(CONVNEXT, 'convnext'),
                                          (DILATED, 'pspnet')])
def test_other_stock_segmentors(code, folder, tmp_path):
    for name in ('_base_', folder):
        (tmp_path / name).mkdir()
        for path in (configs_of('mmseg') / name).iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    (tmp_path / folder / 'own.py').write_text(code)
    cfg = Config.fromfile(tmp_path / folder / 'own.py')
    init_default_scope('mmseg')
    model = build(cfg).eval()
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    rates = {group['lr'] for group in groups}
    assert len(rates) == (12 + 2 if folder == 'convnext' else 1)
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 64, 64), mode='tensor')
    stride = 4 if folder == 'convnext' else 8
    assert outputs.shape == (1, 150, 64 // stride, 64 // stride)


def test_frozen_backbone(load):
    load(PLUGGED)
    with torch.device('meta'):
        model = build(load(FROZEN))
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.neck.parameters())


@pytest.mark.parametrize('code, by_depth', [(SLOWER, False), (DECAYED, True)])
def test_rates_of_the_backbone(code, by_depth, load):
    load(PLUGGED)
    cfg = load(code)
    with torch.device('meta'):
        model = build(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    found = {
        param: group['lr']
        for group in groups
        for param in group['params']
    }
    stem = found[next(model.backbone.patch_embed.parameters())]
    last = found[next(model.backbone.blocks[-1][-1].parameters())]
    head = found[next(model.neck.parameters())]
    assert head == 1e-4
    if by_depth:
        assert stem < last < head
    else:
        assert stem == last == pytest.approx(1e-5)
