"""Outputs that cannot be written are found before any work."""
from importlib import import_module

import pytest
from mmhier.cli.__main__ import COMMANDS
from mmhier.errors import run_tool
from .conftest import CONFIGS, DETECTOR

SEGMENTOR = str(CONFIGS / 'segmentor.py')
# Each would end with another error if it went on, as GONE does not exist.
FILES = [
    (f'test {DETECTOR} GONE --work-dir WORK --data-root COCO --out', '.pkl'),
    (f'export {DETECTOR} GONE --out', '.onnx'),
    (f'export {DETECTOR} GONE --format torch --out', '.pt2'),
    ('convert GONE', '.pth'),
    ('publish GONE', '.pth'),
    (f'publish GONE --safetensors --config {DETECTOR}', '.safetensors'),
    (f'visualize attention GONE --configs {DETECTOR} --checkpoints GONE --out',
     '.png'),
    ('benchmark hatnet-gone --csv', ''),
    ('benchmark hatnet-gone --markdown', ''),
]
FOLDERS = [
    f'train {DETECTOR} --cfg-options load_from=GONE --work-dir',
    f'test {DETECTOR} GONE --work-dir',
    f'test {DETECTOR} GONE --work-dir WORK --data-root COCO --show-dir',
    f'infer {DETECTOR} GONE COCO/val2017 --out-dir',
    f'analyze {DETECTOR} GONE --data-root COCO --out',
    f'visualize browse {DETECTOR} --data-root COCO --split val --out-dir',
    f'submit coco {DETECTOR} GONE --work-dir WORK --image-list '
    'COCO/annotations/instances_val2017.json --image-dir COCO/val2017 '
    '--out-dir',
    f'submit ade20k {SEGMENTOR} GONE --work-dir WORK --image-dir '
    'COCO/val2017 --out-dir',
    'convert-data yolo YOLO',
    'leaderboard WORK --out',
    'generate-shapes',
    'demo --work-dir',
]
# These write nothing, or where another command did: the cache, a work dir.
WITHOUT_OUTPUT = {
    'check', 'configs', 'doctor', 'flops', 'replay', 'web-demo', 'weights'
}


@pytest.fixture
def ends(tmp_path, coco_root, capsys):
    """Run a command; return its last line."""
    (tmp_path / 'file').write_text('')
    (tmp_path / 'work').mkdir()
    yolo = tmp_path / 'yolo'
    for kind, content in (('images', b''), ('labels', b'no label')):
        (yolo / kind / 'train').mkdir(parents=True)
        suffix = 'jpg' if kind == 'images' else 'txt'
        (yolo / kind / 'train' / f'a.{suffix}').write_bytes(content)
    (yolo / 'data.yaml').write_text('names: [a]\ntrain: images/train\n')
    values = dict(
        GONE=tmp_path / 'gone.pth',
        WORK=tmp_path / 'work',
        COCO=coco_root,
        YOLO=yolo)

    def run(command: str, out) -> str:
        for name, value in values.items():
            command = command.replace(name, str(value))
        tool, *arguments = command.split()
        module = import_module(f'mmhier.cli.{tool.replace("-", "_")}')
        with pytest.raises(SystemExit) as end:
            run_tool(lambda: module.main([*arguments, str(out)]))
        assert end.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.mark.parametrize('command, suffix', FILES)
def test_files(command, suffix, ends, tmp_path):
    assert 'file cannot be written to: ' in ends(
        command, tmp_path / 'file' / f'out{suffix}')
    assert 'new cannot be written to: ' in ends(
        command, tmp_path / 'file' / 'new' / f'out{suffix}')
    if suffix:
        assert suffix in ends(command, tmp_path / 'out.unknown')
    folder = tmp_path / f'folder{suffix}'
    folder.mkdir()
    if not command.startswith(('convert', 'publish', 'export')):
        # Those write to other names, with a hash or the part of the model.
        assert 'is a folder: expected the name of a file' in ends(
            command, folder)


@pytest.mark.parametrize('command', FOLDERS)
def test_folders(command, ends, tmp_path):
    for name in ('file', 'file/new'):
        line = ends(command, tmp_path / name)
        assert str(tmp_path / 'file') in line and 'gone' not in line
        assert 'cannot be written to' in line or 'generate' in command


def test_every_command():
    commands = {command.split()[0] for command, _ in FILES}
    commands |= {command.split()[0] for command in FOLDERS}
    assert commands | WITHOUT_OUTPUT == set(COMMANDS)
