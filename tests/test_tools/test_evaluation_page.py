"""docs/evaluation.md: its commands, run one after another as they are."""
import json
import re
import shlex
import shutil
import sys
from glob import glob
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmhier.leaderboard.coco_submission import COCO_CATEGORY_IDS
from ..commands import load_tool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'evaluation.md').read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r'```shell\n(.*?)```', PAGE, re.DOTALL)
    for line in block.replace('\\\n', ' ').splitlines()
]
MODELS_OF_PAGE = {
    'epoch_12.pth': ('mmdet', 'mask-rcnn_hatnet-tiny_fpn_1x_coco'),
    'iter_160000.pth': ('mmseg', 'upernet_hatnet-tiny_160k_ade20k-512x512')
}
SMALL_COCO = [
    'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False',
    'test_dataloader.dataset.pipeline.1.scale=(96,64)',
    'model.test_cfg.rpn.max_per_img=20', 'model.test_cfg.rcnn.score_thr=0.',
    'model.test_cfg.rcnn.max_per_img=5'
]
SMALL_ADE = [
    'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False',
    'test_dataloader.dataset.pipeline.1.scale=(64,64)'
]


def write_official_coco(samples: Path, root: Path) -> None:
    """Small images under COCO's names, with its 80 categories."""
    shutil.copytree(samples, root)
    shutil.copytree(root / 'val2017', root / 'test2017')
    path = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    ids = sorted(COCO_CATEGORY_IDS)
    for annotation in content['annotations']:
        annotation['category_id'] = ids[annotation['category_id']]
    content['categories'] = [
        dict(id=i, name=name)
        for i, name in zip(ids, CocoDataset.METAINFO['classes'])
    ]
    path.write_text(json.dumps(content))
    del content['annotations']
    test_dev = root / 'annotations' / 'image_info_test-dev2017.json'
    test_dev.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path, coco_root, masks_root, monkeypatch) -> Path:
    """A checkout with the data and the checkpoints that the page names."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    coco = tmp_path / 'configs/_base_/datasets/coco_detection.py'
    # No option reaches the views of the test-time augmentation.
    coco.write_text(coco.read_text().replace(
        '(1333, 800), (666, 400), (2000, 1200)', '(96, 64), (48, 32)'))
    write_official_coco(coco_root, tmp_path / 'data' / 'coco')
    ade = tmp_path / 'data' / 'ade' / 'ADEChallengeData2016'
    shutil.copytree(masks_root, ade)
    shutil.copytree(ade / 'images/validation', ade / 'images/testing')
    for checkpoint, (scope, name) in MODELS_OF_PAGE.items():
        cfg = Config.fromfile(ROOT / 'configs' / 'hatnet' / f'{name}.py')
        init_default_scope(scope)
        torch.manual_seed(0)
        torch.save(
            dict(state_dict=MODELS.build(cfg.model).state_dict()),
            tmp_path / checkpoint)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list, monkeypatch) -> None:
    """Run a command of the page on small images; it must succeed."""
    python, path, *arguments = command
    assert python == 'python'
    arguments = [
        match for word in arguments
        for match in (sorted(glob(word))[-1:] if '*' in word else [word])
    ]
    if '--check' not in arguments and 'submit' in path or 'test' in path:
        small = SMALL_ADE if 'ade20k' in arguments else SMALL_COCO
        arguments += ['--cfg-options', *small]
    monkeypatch.setattr(sys, 'argv', [path, *arguments])
    try:
        load_tool(path).main()
    except SystemExit as end:
        assert not end.code, command


@pytest.mark.slow
def test_the_page(folder, monkeypatch, capfd):
    assert [Path(command[1]).stem for command in COMMANDS] == [
        'test', 'test', 'replay', 'leaderboard', 'analyze_results', 'submit',
        'submit', 'submit'
    ]
    for command in COMMANDS:
        run(command, monkeypatch)
    out = capfd.readouterr().out
    assert len(list(
        (folder / 'work_dirs/hatnet').glob('test_record_*.json'))) == 3
    assert 'mask-rcnn_hatnet-tiny_fpn_1x_coco' in (
        folder / 'leaderboard/leaderboard.html').read_text()
    assert (folder / 'work_dirs/hatnet/analysis/analysis.json').is_file()
    packages = [p.name for p in (folder / 'work_dirs').rglob('*.zip')]
    assert len(packages) == 3
    assert out.count('is valid: ') == 4
