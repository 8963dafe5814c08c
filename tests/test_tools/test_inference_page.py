"""docs/inference.md: its commands, run as they are on small images."""
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmhier.apis import config_path
from ..commands import load_tool
from .test_infer import FakeCapture
from .test_visualize import FakeGradio

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'inference.md').read_text()
BLOCKS = re.findall(r'```shell\n(.*?)```', PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line)
    for line in ''.join(BLOCKS).replace('\\\n', ' ').splitlines()
]
SMALL_TEST = [
    'test_dataloader.dataset.pipeline.1.scale=(96,64)',
    'model.test_cfg.rpn.max_per_img=20', 'model.test_cfg.rcnn.max_per_img=5'
]


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """Checkpoint of the page's detector, as it is initialized."""
    cfg = Config.fromfile(ROOT /
                          'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'epoch_12.pth'
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
    return path


@pytest.fixture
def folder(tmp_path, weights, coco_root, monkeypatch) -> Path:
    """A checkout with the files that the page names."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'work_dirs' / 'hatnet').mkdir(parents=True)
    (tmp_path / 'work_dirs/hatnet/epoch_12.pth').symlink_to(weights)
    (tmp_path / 'photos').mkdir()
    for name in ('001.jpg', '002.jpg'):
        shutil.copy(coco_root / 'val2017' / name, tmp_path / 'photos')
    shutil.copy(coco_root / 'val2017/002.jpg', tmp_path / 'photo.jpg')
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/parts').symlink_to(coco_root)
    image = cv2.imread(str(tmp_path / 'photo.jpg'))
    writer = cv2.VideoWriter(
        str(tmp_path / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5,
        (96, 64))
    writer.write(image)
    writer.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, monkeypatch, *options) -> None:
    """Run a command of the page with options added; it must succeed."""
    python, path, *arguments = command
    assert python == 'python'
    monkeypatch.setattr(sys, 'argv', [path, *arguments, *options])
    try:
        load_tool(path).main()
    except SystemExit as exit_:
        assert exit_.code == 0


def of(tool: str, *words: str) -> list:
    """Commands of a tool that hold all of some words."""
    return [
        c for c in COMMANDS
        if c[1] == f'tools/{tool}.py' and set(words) <= set(c)
    ]


def test_every_command_is_run_here():
    counts = [
        len(of(*w)) for w in (('infer', ), ('web_demo', ), ('visualize', ))
    ]
    assert counts == [5, 1, 5] and sum(counts) == len(COMMANDS)


@pytest.mark.parametrize('command', of('infer'), ids=lambda c: c[-1])
def test_infer(command, folder, monkeypatch):
    if '--camera' in command:
        FakeCapture(cv2.imread('photo.jpg'), 2).connect(0, monkeypatch)
    run(command, monkeypatch, '--cfg-options', *SMALL_TEST)
    out_dir = folder / command[command.index('--out-dir') + 1]
    result = json.loads((out_dir / 'predictions.json').read_text())
    assert result['skipped'] == []
    expected = dict(photo=1, folder=2, glob=2, film=1, camera=2)
    assert len(result.get('images') or result['frames']) == (
        expected[out_dir.name])


def test_web_page(folder, monkeypatch):
    (command, ) = of('web_demo')
    opened = []

    class Gradio(FakeGradio, ModuleType):

        def Interface(self, *_, **__):
            return self

        def launch(self, server_name, server_port):
            opened.append(f'http://{server_name}:{server_port}')

    monkeypatch.setitem(sys.modules, 'gradio', Gradio('gradio'))
    run(command, monkeypatch)
    assert opened[0] in PAGE


@pytest.fixture
def official(tmp_path, monkeypatch) -> None:
    """Random weights in place of the official ones that configs name."""
    for name in ('retinanet_lit-tiny', 'mask-rcnn_hatnet-tiny'):
        cfg = Config.fromfile(config_path(f'{name}_fpn_1x_coco'))
        checkpoint = cfg.model.backbone.init_cfg.checkpoint
        path = tmp_path / 'official' / f'{checkpoint.split("://")[-1]}.pth'
        path.parent.mkdir(exist_ok=True)
        torch.save(MODELS.build(cfg.model.backbone).state_dict(), path)
    monkeypatch.setenv('MMHIER_WEIGHTS', str(tmp_path / 'official'))


@pytest.mark.parametrize(
    'kind', ['attention', 'offsets', 'receptive-field', 'features'])
def test_pictures(kind, folder, official, monkeypatch):
    (command, ) = of('visualize', kind)
    run(command, monkeypatch, '--size', '64')
    assert cv2.imread(f'{kind}.png') is not None


def test_browse(folder, monkeypatch):
    (command, ) = of('visualize', 'browse')
    run(command, monkeypatch, '--cfg-options',
        'train_dataloader.dataset.pipeline.2.scale=(96,64)')
    assert len(list((folder / 'samples').iterdir())) == 5


def test_python(folder):
    supervision = pytest.importorskip('supervision')
    predictor, inferencer = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    names: dict = {}
    exec(predictor, names)
    assert isinstance(names['detections'], supervision.Detections)
    exec(inferencer, {})
    assert (folder / 'results/inferencer/vis/photo.jpg').is_file()
