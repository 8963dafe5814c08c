"""The dry run: findings in good, bad and random configs."""
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn
from mmhier.apis import check_config
from mmhier.apis.checking import _DryRun
from mmhier.checkpoints import read_checkpoint
from mmhier.cli import check
from mmhier.engine.memory import collect_saved_bytes
from ..lanes import fast_first
from . import samples
from .conftest import CONFIGS, DETECTOR
from .test_resume import ROOTS, write_config

TOOL = Path(__file__).parents[2] / 'tools' / 'check.py'
MIB = 1024**2


def messages(findings, level: str) -> dict:
    return {f.subject: f.message for f in findings if f.level == level}


@pytest.fixture
def detector(coco_root):
    """Check the slim Mask R-CNN with options."""

    def check(checkpoint=None, num_gpus=1, every_file=False, **cfg_options):
        options = {k.replace('__', '.'): v for k, v in cfg_options.items()}
        return check_config(
            DETECTOR,
            data_root=str(coco_root),
            checkpoint=checkpoint,
            num_gpus=num_gpus,
            every_file=every_file,
            cfg_options=options)

    return check


def test_sound_detector(detector):
    findings = detector(num_gpus=8)
    assert not messages(findings, 'error') | messages(findings, 'warning')
    notes = messages(findings, 'note')
    assert '5 images, 3 classes' in notes['train data']
    assert '6 images, 3 classes, 1 images without a label' in notes['val data']
    assert '96x64' in notes['val data']
    assert 'loss' in notes['float32 step'] and 'loss' in notes['bfloat16 step']
    assert notes['val prediction'] == '1 images predicted'
    # An image for each process, and none for three of them.
    assert 'for all 1 iterations, on 8 of this ' in notes['time']


def test_worst_comes_first(detector):
    levels = [f.level for f in detector(model__backbone__arch='giant')]
    assert levels[0] == 'error' and levels == sorted(
        levels, key=['error', 'warning', 'note'].index)


def test_learning_rate_of_another_batch(detector):
    # Two images on each of 4 processes, where 8 were meant.
    warnings = messages(detector(num_gpus=4), 'warning')
    assert '0.0001 is meant for batches of 16, yours hold 8' in warnings[
        'learning rate']
    assert '--auto-scale-lr, which makes it 5e-05' in warnings['learning rate']


def plain_config(wrapper=None, **values) -> Config:
    """Config of what the checks of an optimizer and of costs read."""
    optimizer = dict(type='AdamW', lr=0.1, weight_decay=0.1)
    return Config(
        dict(
            dict(
                optim_wrapper=dict(wrapper or {}, optimizer=optimizer),
                train_dataloader=dict(batch_size=4),
                train_cfg=dict(max_epochs=4)), **values))


def found_by(check, *args) -> dict:
    """Messages of one of the checks by level and subject."""
    run = _DryRun()
    check(run, *args)
    return {(f.level, f.subject): f.message for f in run.findings}


@pytest.mark.parametrize('accumulated, num_gpus, enable, wanted', [
    (1, 2, False, '0.05'),
    (1, 4, False, None),
    (1, 2, True, None),
    (2, 2, False, None),
    (2, 4, False, '0.2'),
    (2, 4, True, '0.2'),
])
def test_learning_rate_of_accumulated_batches(accumulated, num_gpus, enable,
                                              wanted):
    cfg = plain_config(
        dict(accumulative_counts=accumulated),
        auto_scale_lr=dict(base_batch_size=16, enable=enable))
    found = found_by(_DryRun.check_optimizer, cfg, nn.Linear(2, 2), num_gpus)
    message = found.get(('warning', 'learning rate'))
    if wanted is None:
        assert message is None
        return
    assert message.startswith('0.1 is meant for batches of 16, yours hold '
                              f'{4 * num_gpus * accumulated}: ')
    wrapper = build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper)
    Runner.scale_lr(
        SimpleNamespace(
            _train_dataloader=cfg.train_dataloader,
            world_size=num_gpus,
            param_schedulers=None,
            logger=MMLogger.get_instance('check')), wrapper,
        dict(cfg.auto_scale_lr, enable=True))
    by_flag = f'{wrapper.param_groups[0]["lr"]:g}'
    if accumulated == 1:
        assert message.endswith(f'--auto-scale-lr, which makes it {wanted}')
        assert by_flag == wanted
    else:
        assert (f'set optim_wrapper.optimizer.lr={wanted} and train without '
                '--auto-scale-lr') in message
        assert by_flag != wanted


def test_tensors_without_weight_decay_are_counted():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    cfg = plain_config(
        dict(paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.)))
    found = found_by(_DryRun.check_optimizer, cfg, model, 1)
    assert found == {
        ('note', 'optimizer'):
        'AdamW, lr 0.1, 3 of 4 tensors without weight decay'
    }


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RepeatsTheFirstParameter:

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        first = next(model.parameters())
        return OptimWrapper(torch.optim.SGD([first, first], lr=0.1))


@pytest.mark.filterwarnings('ignore:optimizer contains a parameter group')
def test_parameters_in_no_group_or_in_it_twice():
    cfg = plain_config(dict(constructor='RepeatsTheFirstParameter'))
    run = _DryRun()
    run.check_optimizer(cfg, nn.Linear(2, 2), 1)
    twice, lacking = (f.message for f in run.findings if f.level == 'error')
    assert twice.startswith('some parameters are in the groups more than once')
    assert lacking == '1 trained tensors are in no group, so they would ' \
        'never change'


@pytest.mark.parametrize(
    'num_gpus, loader, schedule, epoch, total',
    [
        (1, {}, dict(max_epochs=4), '50 s', '3 min for all 100 iterations'),
        # 13 images for each process, and 4 in a batch.
        (8, {}, dict(max_epochs=4), '8 s', '32 s for all 16 iterations'),
        (8, dict(drop_last=True), dict(max_epochs=4), '6 s',
         '24 s for all 12 iterations'),
        (1, {}, dict(max_iters=3600), '50 s', '2.0 h for all 3600 iterations'),
    ])
def test_time_of_an_epoch(num_gpus, loader, schedule, epoch, total):
    cfg = plain_config(
        train_dataloader=dict(batch_size=4, num_workers=2, **loader),
        train_cfg=schedule)
    found = found_by(_DryRun.estimate_time, cfg, 100, num_gpus, 2., 3.)
    (_, message), = found.items()
    assert message.startswith(
        f'about {epoch} an epoch of 100 images, {total}, on ')


def test_loading_that_is_slower_than_a_step():
    cfg = plain_config(train_dataloader=dict(batch_size=4, num_workers=2))
    found = found_by(_DryRun.estimate_time, cfg, 100, 1, 2., 6.)
    assert found['note', 'time'].startswith('about 75 s an epoch')
    assert found['warning', 'time'] == (
        'loading a batch takes 6.00 s, longer than a step: raise '
        'train_dataloader.num_workers (now 2)')


class Root(BaseModel):
    """Loss sqrt(weight) per image, whose gradient is infinite at 0."""

    def __init__(self, weight: float, size: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size, ), weight))

    def forward(self, inputs, mode):
        return dict(loss=(self.weight.sum() * inputs).sqrt().mean())


def step(model, **values) -> dict:
    cfg = plain_config(**values)
    return found_by(_DryRun.check_step, 'float32', cfg, model,
                    build_optim_wrapper(model, cfg.optim_wrapper),
                    dict(inputs=torch.ones(2)))


def test_gradient_that_is_not_finite():
    found = step(Root(0.))
    assert found['error', 'float32 step'] == (
        'the loss is finite, but not the gradients of 1 tensors, such as '
        'weight')
    assert 'loss 1, ' in step(Root(1.))['note', 'float32 step']


@pytest.mark.parametrize('hooks, total', [(None, 16),
                                          ([dict(type='EMAHook')], 20)])
def test_memory_is_that_of_each_part(hooks, total, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    memory = step(Root(1., MIB), custom_hooks=hooks)['note', 'memory']
    assert memory.startswith(f'{total}.0 MiB at the peak of a float32 step of '
                             '4 images, ')
    for part in ('weights 4.0 MiB', 'gradients 4.0 MiB',
                 'state of the optimizer 8.0 MiB', 'activations 0.0 MiB'):
        assert part in memory
    assert ('moving averages 4.0 MiB' in memory) == bool(hooks)


def test_what_the_forward_pass_keeps():
    model = nn.Linear(8, 8)
    with collect_saved_bytes(model.parameters()) as kept:
        model(torch.ones(1024, 8, requires_grad=True)).relu().sum()
    # The input of the layer and the output of the activation; not its weight.
    assert sum(kept.values()) == 2 * 1024 * 8 * 4


def test_memory_grows_with_the_batch_and_the_images(detector):

    def activations(**options) -> float:
        memory = messages(detector(**options), 'note')['memory']
        parts = dict(re.findall(r'[:,] ([a-z ]+) ([\d.]+) MiB', memory))
        sizes = {k: float(v) for k, v in parts.items()}
        state = sizes['state of the optimizer']
        assert math.isclose(state, 2 * sizes['gradients'], abs_tol=0.2)
        assert 0 < sizes['gradients'] <= sizes['weights']
        return sizes['activations']

    one = activations(train_dataloader__batch_size=1)
    assert activations(train_dataloader__batch_size=2) > 1.5 * one
    assert activations(
        train_dataloader__batch_size=1,
        train_dataloader__dataset__pipeline__2__scale=(192, 128)) > 1.5 * one


def test_steps_are_those_of_the_optimizer(detector, monkeypatch):
    steps, models = [], []
    take = OptimWrapper.step
    check = _DryRun.check_steps

    def record(self, **kwargs):
        steps.append((type(self).__name__, self.clip_grad_kwargs))
        take(self, **kwargs)

    def compare(self, cfg, model, num_gpus):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        check(self, cfg, model, num_gpus)
        models.append(model)
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key

    monkeypatch.setattr(OptimWrapper, 'step', record)
    monkeypatch.setattr(_DryRun, 'check_steps', compare)
    # In steps of its own, even where a training would gather gradients.
    findings = detector(
        num_gpus=8,
        optim_wrapper__clip_grad=dict(max_norm=1.),
        optim_wrapper__accumulative_counts=4)
    assert not messages(findings, 'error')
    assert models and all(clip == dict(max_norm=1.) for _, clip in steps)
    names = [name for name, _ in steps]
    assert names[:3] == ['OptimWrapper'] * 2 + ['AutocastOptimWrapper']

    errors = messages(
        detector(optim_wrapper__clip_grad=dict(max_norm='high')), 'error')
    assert 'training step' in errors


def test_parameters_that_the_loss_does_not_reach(detector):
    findings = detector(model__rpn_head__loss_cls__loss_weight=0.)
    dead = messages(findings, 'warning')['dead parameters']
    assert re.match(r'\d tensors had only zeros as gradient', dead)


def test_unused_parameters_of_a_segmentor(masks_root):
    # The head reads the first map alone.
    neck = dict(
        type='mmdet.ChannelMapper',
        in_channels=[48, 96, 240, 384],
        out_channels=48)
    findings = check_config(
        str(CONFIGS / 'segmentor.py'),
        data_root=str(masks_root),
        cfg_options={'model.neck': neck})
    unused = messages(findings, 'error')['unused parameters']
    assert 'tensors get no gradient, such as neck.convs.1' in unused
    dead = messages(findings, 'warning')['dead parameters']
    assert 'zeros as gradient in this batch, such as backbone.blocks.1' in dead


def test_loss_that_is_not_finite(detector):
    findings = detector(model__rpn_head__loss_bbox__loss_weight=float('nan'))
    assert 'not finite: ' in messages(findings, 'error')['float32 step']
    assert 'rpn_bbox' in messages(findings, 'error')['float32 step']


def test_file_that_is_no_image(detector, coco_root):
    path = coco_root / 'train2017' / '004.jpg'
    content = path.read_bytes()
    path.write_bytes(b'no image')
    try:
        findings = detector()
    finally:
        path.write_bytes(content)
    errors = messages(findings, 'error')
    assert '1 images cannot be read, such as ' in errors['train data']
    assert '004.jpg' in errors['train data']


def test_checkpoint_of_this_and_of_another_model(detector, detector_run,
                                                 tmp_path):
    checkpoint = Path(detector_run.work_dir) / 'epoch_1.pth'
    fitting = messages(detector(checkpoint=str(checkpoint)), 'note')
    assert re.search(r'epoch_1.pth: (\d+) of \1 keys matched',
                     fitting['checkpoint'])

    weights = read_checkpoint(checkpoint)['state_dict']
    renamed = {
        name.replace('backbone.', 'other.'): value
        for name, value in weights.items()
    }
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=renamed), path)
    count = sum(name.startswith('backbone.') for name in weights)
    errors = messages(detector(checkpoint=str(path)), 'error')
    assert set(errors) == {'checkpoint'}
    assert re.fullmatch(
        'the checkpoint does not fit the model of the config: '
        rf'{len(weights) - count} of {len(weights)} keys matched; '
        rf'{count} missing: backbone\.\S+, backbone.*; '
        rf'{count} not in the model: other\.\S+, other.*', errors['checkpoint'])


def test_config_of_openmmlab_2(tmp_path):
    path = tmp_path / 'old.py'
    path.write_text("optimizer = dict(type='SGD')\ndata = dict()")
    (finding, ) = check_config(str(path))
    assert (finding.level, finding.subject) == ('error', 'config')
    assert 'written for OpenMMLab 2.x' in finding.message


def test_error_of_another_package_becomes_a_finding(detector):
    errors = messages(detector(model__data_preprocessor__mean='black'), 'error')
    assert errors['model'].count('\n') == 0
    assert re.search(r'raised in .*\.py, line \d+', errors['model'])


def run_tool(capsys, *arguments) -> list:
    """Lines of its page."""
    with pytest.raises(SystemExit) as end:
        check.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'\d+ errors, \d+ warnings', lines[-1])
    assert end.value.code == int(not lines[-1].startswith('0 errors'))
    return lines


# A mistake in the model, so that the data alone is looked at.
NO_MODEL = ('--cfg-options', 'model.backbone.arch=giant')


def test_flaws_of_annotations_are_warnings(tmp_path, monkeypatch, capsys):
    root = samples.write_coco(tmp_path / 'data')
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0].update(bbox=[1, 1, 0, 9], area=0)
    content['annotations'][3]['segmentation'] = [[1, 1, 9, 9]]
    content['images'][5].update(width=8, height=8)
    path.write_text(json.dumps(content))
    lines = run_tool(capsys, DETECTOR, '--data-root', str(root), *NO_MODEL)
    shown = [line.split()[0] for line in lines[:-2]]
    assert shown == sorted(shown, key=['ERROR', 'WARNING', 'NOTE'].index)
    warnings = [line for line in lines if line.startswith('WARNING')]
    assert lines[-1].endswith(f', {len(warnings)} warnings')
    assert 'MORE THAN HALF of the annotations, 4 of 6, are' in warnings.pop(0)
    for flaw in ('less than a pixel or no area', 'outside of their image',
                 'fewer than 3 points', 'narrower than filter_cfg.min_size'):
        line, = (line for line in warnings if flaw in line)
        assert line.startswith(f'WARNING  train data: {path}: 1 of ')


def test_flaws_of_masks_are_warnings(tmp_path, monkeypatch, capsys):
    root = samples.write_masks(tmp_path / 'data')
    folder = root / 'annotations' / 'training'
    cv2.imwrite(str(folder / '0.png'), np.full((64, 64), 255, np.uint8))
    cv2.imwrite(str(folder / 'alone.png'), np.zeros((64, 64), np.uint8))
    lines = run_tool(capsys, str(CONFIGS / 'segmentor.py'), '--data-root',
                     str(root), *NO_MODEL)
    assert lines[0].startswith('ERROR')
    assert lines[1:3] == [
        f'WARNING  train data: 1 masks have no image, such as {folder}/'
        'alone.png', 'WARNING  train data: 1 of 2 masks hold ignored pixels '
        f'alone, such as {folder}/0.png'
    ]
    assert lines[-1] == '1 errors, 2 warnings'


@pytest.mark.slow
def test_tool(coco_root):
    command = [sys.executable, TOOL, DETECTOR, '--data-root', coco_root]
    done = subprocess.run([*command, '--num-gpus', '8'],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith('NOTE     weights: random weights')
    assert '\nNOTE     train data: ' in done.stdout
    assert done.stdout.endswith('0 errors, 0 warnings\n')
    done = subprocess.run(
        [*command, '--cfg-options', 'model.backbone.arch=giant'],
        capture_output=True,
        text=True)
    assert done.returncode == 1
    assert done.stdout.startswith('ERROR    model: ')
    assert 'giant' in done.stdout and 'Traceback' not in done.stderr


def _edit(rng: random.Random, node) -> str:
    """Drop a key of a config or change its type; say which."""
    path = []
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = rng.choice(list(keys))
        path.append(str(key))
        child = node[key]
        if isinstance(child, (dict, list)) and child and rng.random() < 0.8:
            node = child
            continue
        if rng.random() < 0.3:
            del node[key]
            return f'without {".".join(path)}'
        value = rng.choice([
            None, -1, 0, 3, 2.5, True, '', 'nonsense', [], [1, 'a'], {}, {
                'type': 'Nonsense'
            },
            float('nan')
        ])
        node[key] = ConfigDict(value) if isinstance(value, dict) else value
        return f'{".".join(path)}={value!r}'


@pytest.mark.parametrize('seed', [
    *fast_first(range(3)), *(pytest.param(seed, marks=pytest.mark.zoo)
                             for seed in range(3, 20))
])
def test_random_edits_never_end_in_a_traceback(seed, request, tmp_path,
                                               monkeypatch, capsys):
    rng = random.Random(seed)
    for i in range(25):
        kind = rng.choice(list(ROOTS))
        cfg = Config.fromfile(write_config(kind, tmp_path / 'sound.py'))
        edit = _edit(rng, cfg._cfg_dict)
        path = tmp_path / f'{i}.py'
        path.write_text(cfg.pretty_text)
        data_root = str(request.getfixturevalue(ROOTS[kind]))
        lines = run_tool(capsys, str(path), '--data-root', data_root)
        for line in lines[:-2]:
            assert line.startswith(('ERROR', 'WARNING', 'NOTE')), edit
