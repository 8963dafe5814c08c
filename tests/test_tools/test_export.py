"""tools/export.py: its commands in docs/export.md, and its errors."""
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmhier.apis import MMHierError
from mmhier.cli import export
from mmhier.export import export_model
from mmhier.export.exporting import load_model, require_format

pytest.importorskip('onnxruntime')
ROOT = Path(__file__).parents[2]
CONFIG = '''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True),
    backbone=dict(
        type='mmhier.LIT',
        arch=dict(
            embed_dims=(16, 16, 16, 16),
            depths=(1, 1, 1, 1),
            num_heads=(2, 2),
            mlp_ratios=(2, 2, 2, 2),
            position='absolute',
            norm_eps=1e-6),
        out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16))
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Has a config and, in its file names, checkpoints of two models."""
    folder = tmp_path_factory.mktemp('export')
    (folder / 'config.py').write_text(CONFIG)
    model, _ = load_model(str(folder / 'config.py'), None)
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        torch.save(
            dict(
                state_dict=model.state_dict(),
                meta=dict(dataset_meta=dict(classes=('cat', 'dog')))),
            folder / f'{seed}.pth')
    return folder


def test_cfg_options_change_the_model(folder):
    options = {'model.backbone.arch.depths': (1, 1, 1, 2)}
    model, _ = load_model(str(folder / 'config.py'), None, options)
    assert len(model.backbone.layers[3].blocks) == 2


def commands():
    """Arguments of tools/export.py in the guide."""
    lines = (ROOT / 'docs' / 'export.md').read_text().splitlines()
    start = 'python tools/export.py '
    return [line[len(start):] for line in lines if line.startswith(start)]


def run_main(arguments, monkeypatch):
    export.main(arguments)


def run_tool(*arguments, cwd=None):
    return subprocess.run([
        sys.executable, '-W', 'ignore', ROOT / 'tools' / 'export.py', *arguments
    ],
                          cwd=cwd,
                          text=True,
                          capture_output=True)


@pytest.mark.slow
def test_the_commands_of_the_guide(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    first, *others = (
        command.replace('CONFIG', 'config.py').replace('CHECKPOINT', '0.pth')
        for command in commands())
    process = run_tool(*shlex.split(first), cwd=folder)
    assert process.returncode == 0, process.stderr
    assert 'wrote model.onnx' in process.stdout
    assert process.stdout.splitlines()[-1].startswith('equal: ')
    for command in others:
        run_main(shlex.split(command), monkeypatch)
    printed = capsys.readouterr().out
    assert 'model.onnx: scores' in printed and ' 64x64 ' in printed
    assert sorted(path.name for path in folder.iterdir()) == [
        '0.pth', '1.pth', 'backbone.onnx', 'backbone.onnx.json', 'config.py',
        'model.onnx', 'model.onnx.json', 'model.pt2', 'model.pt2.json'
    ]
    notes = json.loads((folder / 'model.onnx.json').read_text())
    assert notes['classes'] == ['cat', 'dog']
    assert notes['opset'] == 21
    assert notes['preprocessing'] == dict(
        channel_order='RGB',
        mean=[1, 2, 3],
        std=[4, 5, 6],
        pad_size_divisor=1,
        pad_size=None,
        pad_value=0,
        min_size=64,
        max_size=4096)
    graph, = notes['graphs']
    assert graph['outputs'] == dict(scores=['batch', 2])

    # The same graph of another model is not equal.
    with pytest.raises(SystemExit) as stop:
        run_main(['config.py', '1.pth', '--check', 'model.onnx'], monkeypatch)
    assert stop.value.code == 1
    assert 'NOT EQUAL' in capsys.readouterr().out
    with pytest.raises(MMHierError, match='is another graph.*stride32'):
        run_main(['config.py', '0.pth', '--check', 'backbone.onnx'],
                 monkeypatch)
    before = (folder / 'model.onnx').read_bytes()
    with pytest.raises(MMHierError, match='exists: .*--overwrite'):
        run_main(['config.py', '0.pth', '--out', 'model.onnx'], monkeypatch)
    assert (folder / 'model.onnx').read_bytes() == before


def test_mistakes_are_named(folder):
    process = run_tool('config.py', '0.pth', '--out', 'model.txt', cwd=folder)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        'error: --out model.txt: expected the suffix .onnx for --format onnx')


@pytest.mark.parametrize('arguments, message', [
    (['--out', 'a.onnx', '--opset', '22'], '--opset 22: expected .* 18 to 21'),
    (['--check', 'a.pt2'], 'can hold code'),
    (['--check', 'a.onnx'], 'a.onnx does not exist'),
    (['--check', '1.pth'], 'expected an .onnx file'),
    (['--check', 'a.onnx', '--sizes', '90'], '--sizes 90: .*800x1216'),
    (['--check', 'a.onnx', '--sizes', '90x32'], 'from 64 to 4096'),
])
def test_wrong_arguments_are_named(arguments, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(MMHierError, match=message):
        run_main(['config.py', '0.pth', *arguments], monkeypatch)


def test_a_file_that_is_no_graph_is_named(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    path = tmp_path / 'damaged.onnx'
    for content in (b'', b'no graph', bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(MMHierError, match='damaged.onnx cannot be opened'):
            run_main(['config.py', '0.pth', '--check', str(path)], monkeypatch)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr('mmhier.export.exporting.find_spec', lambda name: None)
    with pytest.raises(MMHierError, match='run pip install onnx onnxscript'):
        require_format('onnx')
    require_format('torch')


def test_nothing_is_left_of_a_failed_export(folder, monkeypatch, tmp_path):

    def fail(graph, path, *args):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmhier.export.exporting.write_graph', fail)
    with pytest.raises(MMHierError, match='cannot write .*No space left'):
        export_model(str(folder / 'config.py'), None, tmp_path / 'model.onnx')
    assert not list(tmp_path.iterdir())
