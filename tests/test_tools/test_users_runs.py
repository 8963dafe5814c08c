"""Cases from users' days in trainings, exports and predictions."""
import copy
import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmhier import apis
from mmhier.apis import MMHierError, load_config
from mmhier.apis.inference import _open_writer
from mmhier.apis.predictor import Predictor
from mmhier.checkpoints import read_checkpoint
from mmhier.cli import check
from mmhier.engine.runner import Runner
from mmhier.export.exporting import (
    export_model,
    inference_settings,
    load_model,
)
from mmhier.export.graphs import build_graphs
from .conftest import CONFIGS
from .test_resume import assert_same, write_config
from .test_users_predictions import CASCADE

SEGMENTOR = str(CONFIGS / 'segmentor.py')
CLASSIFIER = str(CONFIGS / 'classifier.py')


def learning_rates(runner) -> list[float]:
    """Rates of the schedule by iteration."""
    return json.loads(Path(runner.work_dir, 'rates.json').read_text())


RATES = """
import json
from pathlib import Path
from mmengine.hooks import Hook
from mmhier.registry import HOOKS

@HOOKS.register_module(force=True)
class RatesHook(Hook):
    priority = 'VERY_HIGH'
    def before_train(self, runner):
        self.rates = []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        self.rates.append((runner.iter, groups[0]['lr']))
    def after_train(self, runner):
        path = Path(runner.work_dir, 'rates.json')
        path.write_text(json.dumps(self.rates))
"""
COSINE = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=1),
    dict(type='CosineAnnealingLR', T_max=2, by_epoch=True, end=2)
]
LONGER = [COSINE[0], dict(COSINE[1], T_max=5, end=5)]
STEPS = [dict(type='MultiStepLR', milestones=[1], by_epoch=True)]


@pytest.fixture
def train(folders_root, tmp_path, monkeypatch):
    """Train a small classifier and note its learning rates."""
    (tmp_path / 'rates_hook.py').write_text(RATES)
    monkeypatch.syspath_prepend(tmp_path)
    base = Config.fromfile(
        write_config('classifier', tmp_path / 'base.py', True, 2, 1))
    base.custom_imports = dict(imports=['rates_hook'])
    base.custom_hooks.append(dict(type='mmhier.RatesHook'))

    def run(name, resume=None, **values):
        cfg = copy.deepcopy(base)
        cfg.merge_from_dict({
            k.replace('__', '.'): v
            for k, v in values.items()
        })
        path = tmp_path / f'{name}.py'
        cfg.dump(path)
        return apis.train(
            str(path),
            data_root=str(folders_root),
            work_dir=str(tmp_path / name),
            seed=0,
            resume=resume and str(tmp_path / resume))

    return run


@pytest.mark.parametrize('old, new, named', [
    (dict(param_scheduler=COSINE),
     dict(param_scheduler=LONGER,
          train_cfg__max_epochs=5), 'param_scheduler.1.T_max was 2 and is 5'),
    (dict(param_scheduler=STEPS),
     dict(
         param_scheduler=[dict(STEPS[0], milestones=[3, 4])],
         train_cfg__max_epochs=5), 'param_scheduler.0.milestones was {1: 1} '),
    (dict(param_scheduler=STEPS),
     dict(
         param_scheduler=STEPS,
         optim_wrapper__optimizer__lr=0.01,
         train_cfg__max_epochs=3),
     'initial_lr of the optimizer was 0.0001 and is 0.01'),
    (dict(param_scheduler=STEPS),
     dict(param_scheduler=STEPS,
          train_cfg__max_epochs=4), 'param_scheduler.0.end was 2 and is 4'),
])
def test_resuming_with_another_schedule(old, new, named, train, tmp_path,
                                        capfd):
    train('old', **old)
    whole = learning_rates(train('new', **new))
    capfd.readouterr()
    resumed = learning_rates(train('resumed', 'old/epoch_2.pth', **new))
    assert resumed == whole[-len(resumed):] and resumed[0][0] == 2
    printed = capfd.readouterr().out
    assert named in printed and 'goes on as the config says' in printed
    if old == dict(param_scheduler=STEPS) and 'end' in named:
        # Both agree up to here, so the weights are the same bits.
        states = [
            read_checkpoint(tmp_path / name / 'epoch_4.pth')['state_dict']
            for name in ('new', 'resumed')
        ]
        assert_same(*states)


def test_resuming_with_another_batch_or_optimizer(train, capfd):
    train('old')
    train('batch', 'old/epoch_1.pth', train_dataloader__batch_size=2)
    assert 'batch_size was 4 and is 2' in capfd.readouterr().out
    with pytest.raises(MMHierError, match='trained by AdamW, the config .*SGD'):
        train('sgd', 'old/epoch_1.pth', optim_wrapper__optimizer__type='SGD')


def test_early_stopping_stays_stopped(train, capfd):
    hook = dict(
        type='EarlyStoppingHook',
        monitor='accuracy/top1',
        rule='greater',
        stopping_threshold=-1)
    values = dict(train_cfg__max_epochs=3, custom_hooks=[hook])
    assert train('old', **values).epoch == 1
    assert train('same', 'old/epoch_1.pth', **values).epoch == 1
    assert 'was ended by EarlyStoppingHook' in capfd.readouterr().out


def test_no_workers(train):
    train(
        'run',
        train_dataloader__persistent_workers=True,
        train_dataloader__prefetch_factor=2)


@pytest.mark.parametrize('name, package',
                         [('TensorboardVisBackend', 'tensorboard'),
                          ('WandbVisBackend', 'wandb')])
def test_missing_packages_of_logs(name, package, train, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
            MMHierError,
            match=f'visualizer.vis_backends.0: {name} needs {package}, which '
            f'is not installed: run pip install {package}'):
        train('run', visualizer__vis_backends=[dict(type=name)])


def test_missing_custom_import(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = {CLASSIFIER!r}\n"
                    "custom_imports = dict(imports=['nope.heads'])\n")
    with pytest.raises(
            MMHierError,
            match="cannot import what config .* names: No module named 'nope'"):
        load_config(str(path), work_dir=str(tmp_path))


def test_port_in_use(monkeypatch):
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        environment = dict(
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(server.getsockname()[1]),
            RANK='0',
            LOCAL_RANK='0',
            WORLD_SIZE='1')
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(
                MMHierError,
                match=f'port {environment["MASTER_PORT"]} is in '
                'use: set another one with --master_port'):
            Runner.setup_env(
                SimpleNamespace(launcher='pytorch', distributed=True), {})


@pytest.mark.parametrize('rate', [211.222, 66.667, 30000 / 1001, 0.2])
def test_frame_rates(rate, tmp_path):
    path = tmp_path / 'video.mp4'
    writer = _open_writer(path, rate, 96, 64)
    for _ in range(12):
        writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 12


FULL = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')


def segmentor_config(tmp_path, **values) -> str:
    cfg = Config.fromfile(SEGMENTOR)
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in values.items()})
    cfg.dump(tmp_path / 'segmentor.py')
    return str(tmp_path / 'segmentor.py')


@pytest.mark.parametrize('values', [
    dict(),
    CASCADE,
])
def test_segmentor_of_photos_of_several_sizes(values, tmp_path):
    config = segmentor_config(
        tmp_path,
        model__data_preprocessor__size=None,
        model__data_preprocessor__test_cfg=dict(size_divisor=32),
        test_dataloader__dataset__pipeline=FULL,
        **values)
    model, _ = load_model(config, None)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    predictor = Predictor(config, str(tmp_path / 'weights.pth'), device='cpu')
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (h, w, 3), np.uint8)
        for h, w in ((64, 96), (80, 64))
    ]
    together = predictor.predict(images)
    for image, prediction in zip(images, together):
        alone, = predictor.predict([image])
        assert np.array_equal(alone.labels, prediction.labels)
        assert prediction.labels.shape == image.shape[:2]
    photos = tmp_path / 'photos'
    photos.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(photos / f'{i}.png'), image)
    result = apis.infer(
        config,
        str(tmp_path / 'weights.pth'),
        str(photos),
        out_dir=str(tmp_path / 'out'),
        batch_size=2)
    assert result['skipped'] == []
    for entry, prediction in zip(result['images'], together, strict=True):
        labels = cv2.imread(tmp_path / 'out' / entry['labels'], -1)
        assert np.array_equal(labels, prediction.labels)


@pytest.mark.parametrize('head', [
    dict(type='DAHead', pam_channels=8),
    dict(type='EncHead', num_codes=4, in_channels=(48, ), in_index=(0, ))
])
def test_heads_of_several_outputs_are_not_exported(head, tmp_path):
    config = segmentor_config(
        tmp_path,
        model__decode_head=dict(
            _delete_=True,
            **{
                **dict(
                    in_channels=48,
                    in_index=0,
                    channels=16,
                    num_classes=2,
                    norm_cfg=dict(type='BN')),
                **head
            }))
    model, _ = load_model(config, None)
    with pytest.raises(
            MMHierError, match=f'decode_head.type={head["type"]} cannot be'):
        build_graphs(model)


def test_inference_settings_of_an_export(tmp_path):
    config = segmentor_config(
        tmp_path,
        model__test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32)),
        model__decode_head__num_classes=2,
        model__decode_head__out_channels=1,
        model__decode_head__threshold=0.4,
        model__decode_head__loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=True),
        test_dataloader__dataset__pipeline=[
            FULL[0], dict(type='Resize', scale=(2048, 512)), FULL[1]
        ])
    model, metainfo = load_model(config, None)
    assert inference_settings(model) == dict(
        mode='slide',
        align_corners=False,
        crop_size=[64, 64],
        stride=[32, 32],
        activation='sigmoid',
        threshold=0.4)
    assert metainfo['transforms'] == [
        dict(
            type='Resize',
            scale=[2048, 512],
            scale_factor=None,
            keep_ratio=False,
            interpolation='bilinear',
            backend='cv2')
    ]


def test_an_export_says_that_it_takes_one_window(tmp_path):
    config = segmentor_config(
        tmp_path,
        model__test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32)))
    # Not written, as it exists.
    (tmp_path / 'model.onnx').write_text('')
    with (pytest.warns(UserWarning, match=r'one window, \[64, 64\]; cut image'),
          pytest.raises(MMHierError, match='model.onnx exists')):
        export_model(config, None, str(tmp_path / 'model.onnx'))


@pytest.mark.parametrize('mean, subjects',
                         [([120.] * 3, set()),
                          ([120.] * 2, {'training step', 'val prediction'})])
def test_a_data_preprocessor_at_the_top_level(mean, subjects, folders_root,
                                              tmp_path):
    """As in mmpretrain's own configs."""
    cfg = Config.fromfile(CLASSIFIER)
    cfg.data_preprocessor = dict(
        cfg.model.pop('data_preprocessor'), mean=mean, std=[60.] * 3)
    cfg.dump(tmp_path / 'config.py')
    findings = apis.check_config(
        str(tmp_path / 'config.py'), data_root=str(folders_root))
    assert {f.subject for f in findings if f.level == 'error'} == subjects


def test_last_batch(masks_root, tmp_path):
    masks = shutil.copytree(masks_root, tmp_path / 'masks')
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        folder = masks / kind / 'training'
        shutil.copy(folder / f'0.{suffix}', folder / f'2.{suffix}')
    config = segmentor_config(
        tmp_path,
        model__decode_head=dict(
            type='PSPHead', in_channels=384, in_index=3, pool_scales=(1, )),
        train_dataloader__sampler=dict(type='DefaultSampler', shuffle=True),
        train_dataloader__dataset__times=1)
    options = dict(data_root=str(masks))
    cfg = Config.fromfile(config)
    del cfg.model.decode_head['num_convs']
    cfg.dump(config)
    error, = [
        f for f in apis.check_config(config, **options) if f.level == 'error'
    ]
    assert error.subject == 'last batch'
    assert 'a training batch of 1 images leaves BatchNorm a single value' in (
        error.message)
    whole = apis.check_config(
        config, cfg_options={'train_dataloader.drop_last': True}, **options)
    assert not [f for f in whole if f.level == 'error']


def test_findings_as_json(masks_root, capsys):
    with pytest.raises(SystemExit) as end:
        check.main([
            SEGMENTOR, '--json', '--data-root',
            str(masks_root), '--cfg-options', 'model.backbone.arch=giant'
        ])
    findings = json.loads(capsys.readouterr().out)
    assert end.value.code == 1 and findings[0]['level'] == 'error'
    assert set(findings[0]) == {'level', 'subject', 'message'}
    assert 'giant' in findings[0]['message']
