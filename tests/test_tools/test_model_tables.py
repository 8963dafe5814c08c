"""Metafiles name every config; tables and measured figures are in step."""
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmhier.analysis import count_config_complexity
from mmhier.apis import MMHierError
from mmhier.cli import flops
from ..commands import load_tool
from ..config_zoo import ROOT, ZOO, read, register_all
from ..lanes import slow

METAFILES = sorted(ROOT.glob('configs/*/metafile.yml'))
MODELS = [
    model for path in METAFILES
    for model in yaml.safe_load(path.read_text())['Models']
]
# Multiply-adds x 1e9, computed from the shapes of the authors' layers.
KNOWN_FLOPS = {
    'retinanet_lit-tiny_fpn_1x_coco': 286,
    'retinanet_lit-small_fpn_1x_coco': 308,
    'retinanet_lit-medium_fpn_1x_coco': 541,
    'retinanet_lit-base_fpn_1x_coco': 744,
    'mask-rcnn_lit-tiny_fpn_1x_coco': 305,
    'mask-rcnn_lit-small_fpn_1x_coco': 327,
    'semantic-fpn_lit-small_80k_ade20k-512x512': 47,
    'retinanet_litv2-small_fpn_1x_coco': 245.6,
    'mask-rcnn_litv2-base_fpn_1x_coco': 506.0,
    'semantic-fpn_litv2-medium_80k_ade20k-512x512': 63.3,
    'retinanet_hatnet-tiny_fpn_1x_coco': 225,
    'mask-rcnn_hatnet-tiny_fpn_1x_coco': 244,
    'hvt-s-2_8xb128_in1k': 1.941,
    'accvit-small_32xb128_in1k': 11.355,
}


def run_tool(*arguments):
    return subprocess.run([sys.executable, '-W', 'ignore', *arguments],
                          cwd=ROOT,
                          text=True,
                          capture_output=True)


def test_every_config_is_in_a_metafile_of_its_folder():
    assert sorted(model['Config'] for model in MODELS) == ZOO
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(
        index['Import']) == [str(path.relative_to(ROOT)) for path in METAFILES]
    for path in METAFILES:
        metafile = yaml.safe_load(path.read_text())
        collection, = metafile['Collections']
        assert (ROOT / collection['README']).is_file()
        assert (ROOT / collection['Code']).is_file()
        for model in metafile['Models']:
            assert model['In Collection'] == collection['Name']
            assert Path(model['Config']).stem == model['Name']
            assert (ROOT / model['Config']).parent == path.parent


def test_every_result_has_a_source():
    results = [r for model in MODELS for r in model.get('Results', ())]
    assert len(results) == 65
    assert all(result['Source'] and result['Metrics'] for result in results)


def test_tables_show_every_published_value():
    for path in METAFILES:
        readme = path.with_name('README.md').read_text()
        for model in yaml.safe_load(path.read_text())['Models']:
            row = next(line for line in readme.splitlines()
                       if line.startswith(f'| [{model["Name"]}]('))
            cells = [cell.strip() for cell in row.split('|')]
            for result in model.get('Results', ()):
                assert result['Source'] in cells
                for value in result['Metrics'].values():
                    assert str(value) in cells, (model['Name'], value)


def test_schedules_are_those_of_the_configs():
    for model in MODELS:
        cfg, data = read(model['Config']).train_cfg, model['Metadata']
        assert data.get('Epochs') == cfg.get('max_epochs')
        assert data.get('Iterations') == cfg.get('max_iters')


def test_known_flops():
    flops = {m['Name']: m['Metadata']['FLOPs'] / 1e9 for m in MODELS}
    for name, giga in KNOWN_FLOPS.items():
        assert flops[name] == pytest.approx(giga, rel=0.01), name


@pytest.mark.parametrize('name', [
    'configs/hatnet/cascade-mask-rcnn_hatnet-small_fpn_ms-3x_coco.py',
    'configs/lit/retinanet_lit-tiny_fpn_1x_coco.py',
    'configs/hvt/upernet_hvt-s-1_160k_ade20k-512x512.py',
    'configs/accvit/accvit-femto_32xb128_in1k.py',
    slow('configs/litv2/mask2former_litv2-small_160k_ade20k-512x512.py'),
    slow('configs/hatnet/dino-4scale_hatnet-small_12e_coco.py'),
])
def test_metafiles_hold_what_is_measured(name):
    register_all()
    data = next(m['Metadata'] for m in MODELS if m['Config'] == name)
    cost = count_config_complexity(read(name), data['Input Size'])
    assert cost.params == data['Parameters']
    assert cost.macs == pytest.approx(data['FLOPs'], rel=0.002)


def test_tables_are_in_step():
    process = run_tool('tools/model_tables.py', '--check')
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == 'all tables are in step'


def test_a_stale_table_is_told(tmp_path, monkeypatch):
    tool = load_tool('tools/model_tables.py')
    source = ROOT / 'configs' / 'lit'
    folder = tmp_path / 'configs' / 'lit'
    folder.mkdir(parents=True)
    text = (source / 'metafile.yml').read_text()
    (folder / 'metafile.yml').write_text(text.replace('41.6', '51.6'))
    readme = (source / 'README.md').read_text()
    (folder / 'README.md').write_text(readme)
    (tmp_path /
     'model-index.yml').write_text('Import: [configs/lit/metafile.yml]\n')
    (tmp_path / 'README.md').write_text(tool.START + tool.END)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['model_tables.py', '--check'])
    with pytest.raises(
            MMHierError,
            match='out of step: configs/lit/README.md, README.md;'):
        tool.main()
    monkeypatch.setattr(sys, 'argv', ['model_tables.py'])
    tool.main()
    assert '51.6' in (folder / 'README.md').read_text()
    (folder / 'README.md').write_text('# LIT\n')
    with pytest.raises(MMHierError, match='README.md lacks the marks'):
        tool.main()


def test_get_flops_lists_the_parts():
    process = run_tool('tools/analysis_tools/get_flops.py',
                       'configs/lit/mask-rcnn_lit-tiny_fpn_1x_coco.py',
                       '--shape', '64', '96', '--depth', '1')
    assert process.returncode == 0, process.stderr
    *parts, total = process.stdout.splitlines()[-5:]
    assert [part.split()[0]
            for part in parts] == ['backbone', 'neck', 'rpn_head', 'roi_head']
    columns = list(zip(*(part.split() for part in parts)))
    assert sum(map(float, columns[1])) == pytest.approx(39.54, abs=0.01)
    assert sum(map(float, columns[3])) == pytest.approx(
        float(total.split()[4]), abs=0.01)
    assert total.startswith('64x96: 39.54 M parameters, ')


def test_get_flops_names_mistakes(monkeypatch):
    process = run_tool('tools/analysis_tools/get_flops.py', 'no.py')
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        'error: config file no.py does not exist')
    lit = str(ROOT / 'configs/lit/lit-tiny_8xb128_in1k.py')
    runtime = str(ROOT / 'configs/_base_/default_runtime.py')
    for arguments, message in {
        (lit, '--shape', '16'):
            '--shape 16: expected one or two numbers of at least 32 pixels',
        (runtime, ): f'{runtime} has no model',
    }.items():
        monkeypatch.setattr(sys, 'argv', ['get_flops.py', *arguments])
        with pytest.raises(MMHierError, match=f'^{message}$'):
            flops.main()
