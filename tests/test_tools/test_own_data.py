"""The page on a user's own data: its commands and configs, run as they are.

Sizes and schedules are cut down by options that each command gets.
"""
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmhier.apis import MMHierError
from ..commands import load_tool
from ..golden import official_state_dict
from . import samples

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'own_data.md').read_text()
SECTIONS = dict(zip(('intro', 'json', 'masks', 'folders'), PAGE.split('\n## ')))
# Whole models on small images, few proposals, one epoch or iteration;
# checkpoints keep the names that the page gives them.
SMALL = {
    'default_hooks.checkpoint.save_optimizer': False,
    **{
        f'{phase}_dataloader.{key}': value
        for phase in ('train', 'val', 'test')
        for key, value in (('num_workers', 0), ('persistent_workers', False))
    }
}
SMALL = {
    'json': {
        **SMALL, 'train_dataloader.dataset.pipeline.2.scale': '(96,64)',
        'val_dataloader.dataset.pipeline.1.scale': '(96,64)',
        'test_dataloader.dataset.pipeline.1.scale': '(96,64)',
        'model.train_cfg.rpn_proposal.max_per_img': 20,
        'model.train_cfg.rcnn.sampler.num': 16,
        'model.test_cfg.rpn.max_per_img': 20,
        'model.test_cfg.rcnn.max_per_img': 5,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.filename_tmpl': 'epoch_12.pth'
    },
    'masks': {
        **SMALL, 'model.data_preprocessor.size': '(64,64)',
        'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size': '(64,64)',
        'val_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'test_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'train_cfg.max_iters': 1,
        'default_hooks.checkpoint.filename_tmpl': 'iter_160000.pth'
    },
    'folders': {
        **SMALL, 'train_dataloader.batch_size': 4,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.filename_tmpl': 'epoch_300.pth'
    }
}


def blocks(section: str, language: str) -> list:
    """Code blocks of a language in a section of the page."""
    return re.findall(rf'```{language}\n(.*?)```', SECTIONS[section], re.DOTALL)


def commands(section: str) -> list:
    """Arguments of each command in a section of the page."""
    lines = ''.join(blocks(section, 'shell')).replace('\\\n', ' ')
    return [shlex.split(line) for line in lines.splitlines()]


def named(section: str, name: str) -> str:
    """Config of a section that the text before it calls so."""
    text = SECTIONS[section]
    assert f'`{name}`' in text
    (config, ) = blocks(section, 'python')
    return config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the n-th command of a section in an empty checkout."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / 'weights'
    weights.mkdir()
    torch.save(official_state_dict('hatnet_tiny'), weights / 'HAT-Net_Tiny.pth')
    monkeypatch.setenv('MMHIER_WEIGHTS', str(weights))

    def run_command(section: str, index: int) -> None:
        python, path, *arguments = commands(section)[index]
        assert python == 'python'
        options = [f'{k}={v}' for k, v in SMALL[section].items()]
        if '--cfg-options' not in arguments:
            options.insert(0, '--cfg-options')
        # The first command of each section validates as well.
        quick = ['--no-validate'] * (index > 0 and 'train' in path)
        monkeypatch.setattr(sys, 'argv', [path, *quick, *arguments, *options])
        load_tool(path).main()

    return run_command


def load(path: str) -> dict:
    """Weights and meta information of a checkpoint."""
    return torch.load(path, map_location='cpu', weights_only=False)


def test_the_page_holds_what_is_run_here():
    counts = {
        name: (len(commands(name)), len(blocks(name, 'python')))
        for name in SECTIONS
    }
    assert counts == dict(
        intro=(0, 0), json=(5, 1), masks=(2, 1), folders=(2, 0))


@pytest.mark.slow
def test_json(run, tmp_path, coco_root, capfd):
    data = shutil.copytree(coco_root, tmp_path / 'data' / 'parts')
    run('json', 0)
    run('json', 1)
    printed = capfd.readouterr().out
    assert '3 classes from data/parts/annotations/instances_train2017' in (
        printed)
    assert printed.count('segm by ') >= 2
    state = load('work_dirs/parts/epoch_12.pth')
    assert state['meta']['dataset_meta']['classes'] == samples.CLASSES
    heads = 'roi_head.bbox_head.fc_cls.weight', 'roi_head.mask_head.' \
        'conv_logits.weight'
    assert [len(state['state_dict'][name]) for name in heads] == [4, 3]
    pictures = list((tmp_path / 'work_dirs/parts').rglob('pictures/*.jpg'))
    assert len(pictures) == samples.NUM_IMAGES

    run('json', 3)
    printed = capfd.readouterr().out
    report = re.search(
        r'checkpoint: (\d+) of (\d+) keys matched; 6 of another'
        r' shape: roi_head.bbox_head.fc_cls.bias', printed)
    assert report and int(report[2]) - int(report[1]) == 6
    assert 'leaves out 1 of the 3 categories' in printed
    tuned = load('work_dirs/finetuned/epoch_12.pth')['state_dict']
    assert [len(tuned[name]) for name in heads] == [3, 2]
    # A small rate, so the rest is what it was.
    for name in 'neck.fpn_convs.0.conv.weight', 'rpn_head.rpn_conv.weight':
        assert torch.allclose(tuned[name], state['state_dict'][name], atol=1e-4)

    # The last command, on another layout.
    export = tmp_path / 'data' / 'export'
    for new, old in (('train', 'train'), ('valid', 'val')):
        shutil.copytree(data / f'{old}2017', export / new)
        shutil.copy(data / f'annotations/instances_{old}2017.json',
                    export / new / '_annotations.json')
    (tmp_path / 'export.py').write_text(named('json', 'export.py'))
    run('json', 4)
    assert (tmp_path / 'work_dirs/export/epoch_12.pth').exists()


@pytest.mark.slow
def test_json_without_masks(run, tmp_path, coco_root):
    """RetinaNet with some of the categories, from boxes alone."""
    data = shutil.copytree(coco_root, tmp_path / 'data' / 'parts')
    for path in (data / 'annotations').iterdir():
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        path.write_text(json.dumps(content))
    with pytest.raises(MMHierError, match='has no segmentation.*RetinaNet'):
        run('json', 0)
    run('json', 2)
    state = load('work_dirs/two-parts/epoch_12.pth')
    assert state['meta']['dataset_meta']['classes'] == ('box', 'tile')
    assert len(state['state_dict']['bbox_head.retina_cls.bias']) == 9 * 2


def test_masks(run, tmp_path, masks_root, capfd):
    shutil.copytree(masks_root, tmp_path / 'data' / 'floor')
    (tmp_path / 'floor.py').write_text(named('masks', 'floor.py'))
    run('masks', 0)
    run('masks', 1)
    printed = capfd.readouterr().out
    assert '2 classes from --classes: ground, tile' in printed
    assert '2 of 2 masks in data/floor/annotations/training' in printed
    assert re.search(r'\|\s+ground\s+\|.*\n\|\s+tile\s+\|', printed)
    state = load('work_dirs/floor/iter_160000.pth')
    assert len(state['state_dict']['decode_head.conv_seg.bias']) == 2
    assert len(list(
        (tmp_path / 'work_dirs/floor').rglob('pictures/*.jpg'))) == 2


@pytest.mark.slow
def test_folders(run, tmp_path, folders_root, capfd):
    shutil.copytree(folders_root, tmp_path / 'data' / 'light')
    run('folders', 0)
    run('folders', 1)
    printed = capfd.readouterr().out
    assert '2 classes from data/light/train: bright, dark' in printed
    assert 'accuracy/top1' in printed and 'accuracy/top5' not in printed
    state = load('work_dirs/light/epoch_300.pth')
    assert state['meta']['dataset_meta']['classes'] == ('bright', 'dark')
    assert len(state['state_dict']['head.fc.bias']) == 2
