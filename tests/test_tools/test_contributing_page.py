"""CONTRIBUTING.md: its commands, and the family that it adds."""
import importlib.util
import inspect
import sys

import pytest
import torch
import yaml
from mmengine.config import Config
from mmhier.models import backbones
from mmhier.registry import MODELS
from ..config_zoo import build, generated_batch, shrink
from ..lanes import IS_OLDEST_TORCH
from ..test_models import test_contract as contract
from .pages import ROOT, Shell, blocks, commands

PAGE = 'CONTRIBUTING.md'
FAMILY, EXPORT, CONFIG = blocks(PAGE, 'python')
CONFIG_PATH = 'configs/mixnet/mask-rcnn_mixnet-tiny_fpn_1x_coco.py'
# Every test of the contract that takes one variant and nothing else.
CONTRACT = {
    name: function
    for name, function in vars(contract).items() if name.startswith('test_')
    and list(inspect.signature(function).parameters) == ['family', 'arch']
}


@pytest.fixture
def family(tmp_path, monkeypatch):
    """The family of the page, where its text says."""
    text = (ROOT / PAGE).read_text()
    assert '`mmhier/models/backbones/mixnet.py`' in text
    assert f'`{CONFIG_PATH}`' in text
    path = tmp_path / 'mixnet.py'
    path.write_text(FAMILY)
    name = 'mmhier.models.backbones.mixnet'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(contract.FAMILIES, 'MixNet', module.MixNet)
    yield module.MixNet
    del MODELS.module_dict['MixNet']


def test_family_keeps_the_contract(family):
    assert len(CONTRACT) >= 13
    for name, function in CONTRACT.items():
        if not (IS_OLDEST_TORCH and 'exports' in name):
            function('MixNet', 'tiny')
    for frozen_stages in (-1, 2):
        contract.test_checkpointing_changes_no_loss_gradient_or_statistic(
            'MixNet', 'tiny', frozen_stages)
    contract.test_wrong_arch_is_named('MixNet')


def test_family_is_exported(family):
    scope = dict(__name__=backbones.__name__, __package__=backbones.__name__)
    exec(EXPORT, scope)
    assert scope['MixNet'] is family


@pytest.fixture
def checkout(family, tmp_path):
    """A checkout with the config of the page."""
    (tmp_path / 'configs' / 'mixnet').mkdir(parents=True)
    (tmp_path / 'configs/_base_').symlink_to(ROOT / 'configs/_base_')
    (tmp_path / CONFIG_PATH).write_text(CONFIG)
    return tmp_path


def test_config_trains(checkout):
    cfg = Config.fromfile(checkout / CONFIG_PATH)
    shrink(cfg)
    model = build(cfg).train()
    data = model.data_preprocessor(generated_batch(cfg), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_commands(checkout, monkeypatch):
    metafile = yaml.safe_load((ROOT / 'configs/lit/metafile.yml').read_text())
    model = next(m for m in metafile['Models']
                 if 'COCO' == m['Metadata']['Training Data'])
    model.update(Name='mixnet', Config=CONFIG_PATH, Results=[])
    model['Metadata'].update(Parameters=0, FLOPs=0)
    metafile['Models'] = [model]
    folder = checkout / 'configs' / 'mixnet'
    (folder / 'metafile.yml').write_text(yaml.safe_dump(metafile))
    (checkout /
     'model-index.yml').write_text('Import: [configs/mixnet/metafile.yml]\n')

    def change(tool):
        for path in (folder / 'README.md', checkout / 'README.md'):
            path.write_text(f'# MixNet\n{tool.START}{tool.END}')
        monkeypatch.setattr(tool, 'ROOT', checkout)

    shell = Shell(checkout, monkeypatch)
    shell.changes['model_tables'] = change
    for command in commands(PAGE):
        shell.run(command)
    measured = yaml.safe_load((folder / 'metafile.yml').read_text())
    with torch.device('meta'):
        whole = build(Config.fromfile(checkout / CONFIG_PATH))
    parameters = sum(p.numel() for p in whole.parameters())
    assert measured['Models'][0]['Metadata']['Parameters'] == parameters
    assert f'{parameters / 1e6:.1f}' in (folder / 'README.md').read_text()
    installed, tested, exported, recorded, zoo, demo = shell.made
    assert 'requirements/tests.txt' in installed and '-m pytest' in tested
    assert 'tools/export_table.py' in exported
    assert '--record test -m' in recorded and '--record test-zoo -m' in zoo
    assert 'tools/demo_table.py' in demo


def test_checks_of_every_commit():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    by_name = {h['id']: h for repo in hooks['repos'] for h in repo['hooks']}
    assert 'ruff-check' in by_name
    assert by_name['mypy']['entry'] == 'python -m mypy'
    # pyproject.toml lists the files for mypy.
    assert by_name['mypy']['pass_filenames'] is False
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    for job, command in (('lint', 'make lint'), ('test', 'make test-all'),
                         ('test-original', 'make test-original'),
                         ('test-floor', 'make test-floor')):
        steps = workflow['jobs'][job]['steps']
        assert command in [step.get('run') for step in steps]
    assert (ROOT / '.ci/run').read_text().splitlines()[-2:] == [
        'make lint', 'make test-all'
    ]
