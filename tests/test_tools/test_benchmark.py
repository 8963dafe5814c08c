"""tools/benchmark.py, docs/speed.md, and the switch that compiles a backbone.
"""
import csv
import logging
import re
import subprocess
import sys
from statistics import median

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from torch import nn
from mmhier import apis
from mmhier.analysis import benchmark_report
from mmhier.analysis.benchmark_page import (
    BLOCK,
    read_commands,
    read_rows,
    render,
    table,
    write_rows,
)
from mmhier.analysis.benchmarking import (
    Case,
    count_saved_bytes,
    fit_line,
    measure,
)
from mmhier.analysis.variants import (
    PEERS,
    build_variant,
    load_target,
    variant_config,
)
from mmhier.cli import benchmark
from mmhier.models import LIT
from ..lanes import fast_first
from .conftest import DETECTOR
from .pages import ROOT, Shell, commands

PAGE = 'docs/speed.md'
TOOL = str(ROOT / 'tools/benchmark.py')
# The authors' layout of a HAT-Net, as far as weights go.
USERS_MODEL = '''
from mmhier.models import HATNet

def authors():
    model = HATNet('tiny')
    for parameter in model.parameters():
        parameter.data.zero_()
    return model

def number():
    return 1
'''

# Takes new pages from the system unless it has kept the last ones.
ALLOCATING = '''
from resource import RUSAGE_SELF, getrusage
import torch

class Allocating(torch.nn.Module):

    def forward(self, images):
        before = getrusage(RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        print('faults:', getrusage(RUSAGE_SELF).ru_minflt - before)
        return images
'''


@pytest.fixture(autouse=True)
def settings_of_the_process():
    """The tool, run in this process, changes them."""
    logger = MMLogger.get_current_instance()
    threads, level = torch.get_num_threads(), logger.level
    yield
    torch.set_num_threads(threads)
    logger.setLevel(level)
    logging.disable(logging.NOTSET)


def call(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)],
                          capture_output=True,
                          text=True)


@pytest.mark.slow
def test_writes_csv_and_markdown_of_every_form(tmp_path):
    (tmp_path / 'users.py').write_text(USERS_MODEL)
    table, rows = tmp_path / 'table.md', tmp_path / 'rows.csv'
    done = call('hatnet-tiny', '--forms', 'plain', 'eager', 'auto',
                f'{tmp_path}/users.py:authors', '--sizes', '224', '--mode',
                'inference', 'training', '--rounds', 2, '--threads', 2,
                '--macs', '--csv', rows, '--markdown', table)
    assert done.returncode == 0, done.stderr
    with open(rows, newline='') as file:
        found = list(csv.DictReader(file))
    assert [row['form'] for row in found[:3]] == ['plain', 'eager', 'auto']
    assert len(found) == 8
    for row in found:
        assert float(row['ms']) > 0
        # The user's model was given our weights.
        assert float(row['difference']) <= 1e-4
        assert float(row['GMACs']) == pytest.approx(2.128, rel=0.01)
        assert 'torch' in row['machine'] and '2 threads' in row['machine']
    assert table.read_text().count('\n| plain |') == 2
    assert 'Measured on: ' in table.read_text()
    done = call('hatnet-tiny', '--csv', rows)
    assert done.returncode == 2
    assert done.stderr == f'error: {rows} exists: remove it or name another ' \
        'file\n'


def test_names_mistakes(tmp_path, monkeypatch, capsys):
    shell = Shell(tmp_path, monkeypatch)
    tool = shell._load_tool('tools/benchmark.py')
    (tmp_path / 'users.py').write_text(USERS_MODEL)
    (tmp_path / 'empty.md').write_text('nothing')
    for arguments, message in [
        ('hatnet-huge', "unknown arch 'huge' of HATNet"),
        ('vgg', 'vgg: expected a config file, a peer (resnet50'),
        ('hatnet-tiny --forms fast', 'fast: expected one of auto'),
        ('resnet50 --forms plain', 'plain: mmdet.ResNet is no backbone'),
        ('hatnet-tiny --forms gone.py:f', 'gone.py:f: no file gone.py'),
        ('hatnet-tiny --forms users.py:g', 'users.py defines no callable g'),
        ('hatnet-tiny --forms users.py:number', 'returned int'),
        ('hatnet-tiny --device cuda', '--device cuda: no such device here'),
        ('', 'expected a backbone such as hatnet-tiny'),
        ('--page gone.md', '--page gone.md: no such file'),
        ('--page empty.md', 'no "<!-- benchmark: NAME -->"'),
    ]:
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments.split()])
        if 'cuda' in arguments and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit) as end:
            apis.run_tool(tool.main)
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith('error: ') and message in error
        assert error.count('\n') == 1


def test_a_gpu_is_made_the_current_device(monkeypatch):
    """Of which waits and memory figures are."""
    devices = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'set_device', devices.append)
    monkeypatch.setattr(benchmark_report, 'report', lambda arguments:
                        ('table', []))
    monkeypatch.setattr(benchmark_report, 'machine', devices.append)
    for device in ('cpu', 'cuda:1'):
        benchmark.main(['hatnet-tiny', '--device', device])
    assert devices == ['cpu', 'cuda:1', 'cuda:1']


@pytest.mark.slow
def test_page_is_measured_anew(tmp_path, monkeypatch):
    shell = Shell(tmp_path, monkeypatch)
    (tmp_path / 'page.md').write_text(
        'before\n<!-- benchmark: small -->\nold\n<!-- end -->\nafter\n')
    (tmp_path / 'speed').mkdir()
    command = 'accvit-femto --forms swin-t auto --sizes 64 --rounds 1'
    (tmp_path /
     'speed/commands.txt').write_text(f'small: {command}\nother: hatnet-huge\n')
    write_rows(tmp_path / 'speed/small.csv', [dict(command='gone', form='x')])
    shell.run('python tools/benchmark.py --page page.md --only small')
    page = (tmp_path / 'page.md').read_text()
    assert page.startswith('before\n') and page.endswith('-->\nafter\n')
    assert 'old' not in page and '| accvit-femto | inference | 64x64 |' in page
    rows = read_rows(tmp_path / 'speed/small.csv')
    assert [(row['command'], row['form'])
            for row in rows] == [(command, 'swin-t'), (command, 'auto')]
    # Outputs of a peer are others.
    assert [row['difference'] for row in rows] == ['', '0.0e+00']


def test_tables_follow_from_rows():
    case = dict(model='lit', mode='training', size='64x64', machine='here')
    rows = [
        dict(case, form='swin-t', ms='129.7', **{'peak MiB': ''}),
        dict(case, form='plain', ms='20.0', **{'peak MiB': '9'}),
        dict(case, form='eager', ms='15.0', **{'peak MiB': ''}),
        dict(case, form='auto', ms='99.0', **{'peak MiB': ''}),
        dict(case, form='auto', ms='10.0', **{'peak MiB': '4'}),
    ]
    assert table(rows) == (
        '| model | pass | size | swin-t, ms | plain, ms | auto, ms | '
        'vs swin-t | vs plain | MiB, plain / auto |\n'
        '|---|---|---|---|---|---|---|---|---|\n'
        '| lit | training | 64x64 | 130 | 20.0 | 10.0 | 12.97 | 2.00 | '
        '9 / 4 |\n\nMeasured on: here.\n')
    peaks = [
        dict(model='lit', size=size, ms='', machine=size, **{'peak MiB': size})
        for size in ('64', '96')
    ]
    assert table(peaks).splitlines()[2] == '| lit | 64 | 96 |'
    assert 'several commits' in table(peaks)


def test_tables_of_the_page_are_those_of_its_rows():
    page = ROOT / PAGE
    assert page.read_text() == render(page)
    assert len(page.read_text().splitlines()) <= 120
    # Simulated rows have no machine; their own test compares them.
    for path in set(page.with_suffix('').glob('*.csv')) - {
            page.with_suffix('') / 'cuda_simulation.csv'
    }:
        for row in read_rows(path):
            assert row['command']
            assert 'commit' in row['machine'] and 'torch' in row['machine']


@pytest.mark.slow
def test_tells_operators_and_rates(tmp_path, monkeypatch, capsys):
    shell = Shell(tmp_path, monkeypatch)
    shell.run('python tools/benchmark.py accvit-femto --forms auto --sizes 64'
              ' --rounds 1 --profile')
    printed = capsys.readouterr().out
    assert 'Where the time of auto goes' in printed
    limits = re.findall(r'(\d+) ms for (convolutions|attention)', printed)
    assert [part for _, part in limits] == ['convolutions', 'attention']
    shares = [int(x) for x in re.findall(r'\| (\d+)% \|', printed)]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 102
    shell.run('python tools/benchmark.py --rates')
    rates = re.findall(r'\| ([\d.]+) \|', capsys.readouterr().out)
    assert len(rates) == 7 and all(float(rate) > 0 for rate in rates)


@pytest.mark.slow
def test_freed_memory_is_kept(tmp_path):
    (tmp_path / 'allocating.py').write_text(ALLOCATING)
    form = f'{tmp_path}/allocating.py:Allocating'
    for options, kept in ([], False), (['--keep-memory'], True):
        run = call('lit-tiny', '--forms', form, '--sizes', 64, *options)
        assert run.returncode == 0, run.stderr
        faults = [int(n) for n in re.findall(r'faults: (\d+)', run.stdout)]
        assert len(faults) > 7 and (median(faults) < 9) == kept


@pytest.mark.slow
def test_commands_of_the_page(tmp_path, monkeypatch):
    shell = Shell(tmp_path, monkeypatch)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'HAT_Net.py').write_text(
        USERS_MODEL.replace('authors', 'HAT_Net_tiny'))
    asked = []
    run_cases = benchmark_report.run_cases

    def run_small(tool):

        def run(arguments):
            asked.append(arguments)
            # The windows of the plain form have to tile the maps.
            side = 224 if 'plain' in arguments.forms else 64
            arguments.sizes, arguments.rounds = [(side, side)], 1
            if arguments.memory:  # a process for each form
                del arguments.forms[1:]
            return run_cases(arguments)

        monkeypatch.setattr(benchmark_report, 'run_cases', run)

    def note(arguments):
        target = load_target(arguments.model)
        for form in arguments.forms:
            variant_config(target, form)
        asked.append(arguments)
        case = Case('training', 224, 224)
        return measure({'auto': nn.Conv2d(3, 1, 1)}, case, 1)

    def change(tool):
        monkeypatch.setattr(benchmark_report, 'run_cases', note)
        monkeypatch.setattr(benchmark_report, 'profile_table', str)
        monkeypatch.setattr(benchmark_report, 'rates_table', str)

    shell.changes['benchmark'] = run_small
    for command in commands(PAGE):
        shell.run(command)
    assert len(asked) == 3
    shell.changes['benchmark'] = change
    named = read_commands(ROOT / PAGE)
    for names in BLOCK.findall((ROOT / PAGE).read_text()):
        assert names[1] in named
    for lines in named.values():
        for arguments in lines:
            shell.run(f'python tools/benchmark.py {arguments}')
    speed = re.search(r'^speed: .*\n\t.*--page (\S+) --only (.*)$',
                      (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert speed[1] == PAGE and set(speed[2].split()) <= set(named)


@pytest.mark.parametrize(
    'config',
    fast_first([
        'accvit/accvit-femto_32xb128_in1k.py',
        'hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py',
        'hvt/upernet_hvt-ti-1_160k_ade20k-512x512.py',
        'lit/semantic-fpn_lit-tiny_80k_ade20k-512x512.py',
    ]))
def test_whole_models_run_in_both_modes(config):
    target = load_target(str(ROOT / 'configs' / config))
    forms = ['auto']
    if target.default_scope != 'mmpretrain':
        forms.append('swin-t')
    for form in forms:
        for mode in ('inference', 'training'):
            model = build_variant(target, form, mode == 'training', 'cpu')
            found, = measure({form: model}, Case(mode, 64, 96, 2), 1)
            assert found.seconds > 0


@pytest.mark.parametrize('peer', PEERS)
def test_peers_return_four_maps(peer):
    model = build_variant(load_target(peer), 'auto', False, 'cpu')
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == PEERS[peer][1]
    assert [x.shape[2] for x in maps] == [16, 8, 4, 2]


def test_saved_bytes_are_counted_once_without_parameters():
    layer = nn.Linear(8, 4)
    case = Case('training', 8, 8)
    # Kept: the product's input once, its output once.
    found = count_saved_bytes(lambda x: (layer(x * 1).sigmoid() * 2).sigmoid(),
                              case)
    assert found == 4 * (3 * 8 * 8 + 2 * 3 * 8 * 4)


def test_lines_and_powers():
    pixels = [1e4, 2e4, 4e4, 8e4]
    deviation, power = fit_line([(x, 3 * x) for x in pixels])
    assert deviation < 1e-6 and power == pytest.approx(1)
    deviation, power = fit_line([(x, x * x) for x in pixels])
    assert deviation > 0.3 and power == pytest.approx(2)


@pytest.mark.slow
def test_compiled_backbone_trains_and_tests_in_a_runner(coco_root, tmp_path):
    torch._dynamo.reset()
    cfg = Config.fromfile(DETECTOR)
    options = {
        'model.backbone.compile': dict(backend='eager'),
        'train_cfg.max_epochs': 1,
    }
    compiled = apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'a'),
        seed=0,
        cfg_options=options)
    eager = apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'b'),
        seed=0,
        cfg_options={'train_cfg.max_epochs': 1})
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    assert cfg.model.backbone.type in str(compiled.cfg.model.backbone)
    for (name, a), b in zip(compiled.model.state_dict().items(),
                            eager.model.state_dict().values()):
        torch.testing.assert_close(
            a,
            b,
            rtol=1e-3,
            atol=1e-4,
            msg=lambda text, name=name: f'{name}: {text}')
    torch._dynamo.reset()


@pytest.mark.slow
def test_copies_of_a_compiled_backbone_have_weights_of_their_own():
    arch = dict(LIT.arch_zoo['tiny'], depths=(1, 1, 1, 1))
    model = LIT(arch, compile=dict(backend='eager')).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        average = ExponentialMovingAverage(model, momentum=0.5)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        model(x)
        average.update_parameters(model)
        plain = LIT(arch).eval()
        plain.load_state_dict(average.module.state_dict())
        for a, b in zip(average(x), plain(x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="compile='yes' of LIT: expected"):
        LIT(compile='yes')
