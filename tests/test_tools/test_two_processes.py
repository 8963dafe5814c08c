"""Two processes train, resume and evaluate as one does."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn
from mmhier import apis
from mmhier.checkpoints import read_checkpoint
from mmhier.engine.checkpoints import CheckpointFitHook
from . import samples
from .conftest import CONFIGS
from .pages import ROOT
from .test_resume import assert_same, training_state, workers, write_config

pytestmark = pytest.mark.slow
# Channels of the last map, and options of the backbone. BatchNorm takes its
# statistics from the batch of a process, so it is frozen.
FAMILIES = {
    'HATNet': (384, dict(arch='tiny')),
    'LIT': (512, dict(arch='tiny', norm_eval=True)),
    'HVT': (192, dict(arch='ti-1', drop_path_rate=0., norm_eval=True)),
    'ACCViT': (256, dict(arch='femto', norm_eval=True)),
}
RUN = '''
import json, sys
import torch
from mmhier import apis
from yapf.yapflib import yapf_api

torch.set_num_threads(1)
yapf_api.FormatCode = lambda text, **kwargs: (text, True)  # takes seconds
for verb, arguments in json.loads(sys.argv[1]):
    getattr(apis, verb)(launcher='pytorch', **arguments)
'''


def run_in_two_processes(jobs: list) -> None:
    """Call functions of mmhier.apis by their names."""
    done = subprocess.run([
        sys.executable, '-m', 'torch.distributed.run', '--standalone',
        '--nproc_per_node=2', '--no-python', sys.executable, '-c', RUN,
        json.dumps(jobs)
    ],
                          capture_output=True,
                          text=True,
                          timeout=600,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr


def write_classifier(family: str, path: Path) -> str:
    """Config of steps with all four images.

    DDP refuses the second one after a parameter without a gradient.
    """
    channels, options = FAMILIES[family]
    cfg = Config.fromfile(CONFIGS / 'classifier.py')
    cfg.model.backbone = dict(
        type=f'mmhier.{family}', out_indices=(3, ), **options)
    cfg.model.head.in_channels = channels
    cfg.train_cfg.max_epochs = 2
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    cfg.dump(path)
    return str(path)


def write_sharded(detector: str, folder: Path) -> str:
    """Config of a detector with the strategy of the zoo's FSDP config."""
    zoo = Config.fromfile(ROOT / 'configs' / 'accvit' /
                          'mask-rcnn_accvit-base_fpn_fsdp_1x_coco.py')
    zoo.strategy.model_wrapper.auto_wrap_policy.min_num_params = 10_000
    cfg = Config.fromfile(detector)
    cfg.update(runner_type=zoo.runner_type, strategy=zoo.strategy)
    cfg.custom_hooks = []  # EMAHook cannot copy a sharded model.
    cfg.dump(folder / 'sharded.py')
    return str(folder / 'sharded.py')


@pytest.fixture(scope='module')
def runs(coco_root, folders_root, tmp_path_factory):
    """Folders of what two processes did, and their arguments, by name."""
    folder = tmp_path_factory.mktemp('two')
    jobs = {
        family: ('train',
                 dict(
                     config=write_classifier(family, folder / f'{family}.py'),
                     data_root=str(folders_root),
                     seed=0,
                     no_validate=True,
                     cfg_options={'train_dataloader.batch_size': 2}))
        for family in FAMILIES
    }

    detector = write_config('mask-rcnn', folder / 'detector.py', by_epoch=True)
    for name, config in (('detector', detector),
                         ('sharded', write_sharded(detector, folder))):
        common = dict(
            config=config,
            data_root=str(coco_root),
            seed=0,
            cfg_options={
                **workers(1), 'train_dataloader.batch_size': 1,
                'optim_wrapper.paramwise_cfg.norm_decay_mult': 0.
            })
        jobs[name] = 'train', common
        jobs[f'{name}_resumed'] = 'train', dict(
            common, resume=str(folder / name / 'epoch_2.pth'))

    masks_root = samples.write_masks(folder / 'masks')
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        shutil.copy(masks_root / kind / 'training' / f'0.{suffix}',
                    masks_root / kind / 'validation' / f'2.{suffix}')
    jobs['segmentor'] = 'train', dict(
        config=str(CONFIGS / 'segmentor.py'),
        data_root=str(masks_root),
        seed=0,
        no_validate=True)
    for name, checkpoint in (('segmentor', 'iter_1.pth'), ('HATNet',
                                                           'epoch_1.pth')):
        jobs[f'{name}_tested'] = 'test', dict(
            {key: jobs[name][1][key]
             for key in ('config', 'data_root')},
            checkpoint=str(folder / name / checkpoint),
            cfg_options={
                'test_dataloader.batch_size': 1,
                'test_dataloader.dataset.indices': 3
            })

    for name, (_, arguments) in jobs.items():
        arguments['work_dir'] = str(folder / name)
    run_in_two_processes(list(jobs.values()))
    return {
        name: (folder / name, arguments)
        for name, (_, arguments) in jobs.items()
    }


@pytest.mark.parametrize('family', FAMILIES)
def test_gradients_are_those_of_the_doubled_batch(family, runs, tmp_path):
    folder, arguments = runs[family]
    apis.train(**dict(arguments, work_dir=str(tmp_path), cfg_options={}))
    one, two = (
        read_checkpoint(path / 'epoch_1.pth')['optimizer']['state']
        for path in (tmp_path, folder))
    assert one.keys() == two.keys() and len(one) > 20
    # After the first step the momentum is the gradient.
    one, two = ([state['momentum_buffer'] for state in states.values()]
                for states in (one, two))
    scale = max(gradient.abs().max().item() for gradient in one)
    for alone, together in zip(one, two):
        assert alone.any()
        torch.testing.assert_close(
            together, alone, rtol=1e-4, atol=5e-5 * scale)


@pytest.mark.parametrize('name', ['detector', 'sharded'])
def test_two_and_two_are_four(name, runs):
    whole, resumed = (runs[run][0] for run in (name, f'{name}_resumed'))
    assert not (resumed / 'epoch_2.pth').exists()
    states = [
        training_state(folder / 'epoch_4.pth') for folder in (whole, resumed)
    ]
    assert_same(*states)
    # FSDP writes names in place of numbers.
    sharded = 'backbone.patch_embed.0.weight' in states[0]['optimizer']['state']
    assert sharded == (name == 'sharded')


def test_sharded_checkpoint_is_that_of_the_whole_model(runs, tmp_path):
    (replicated, arguments), (sharded, _) = runs['detector'], runs['sharded']
    # EMAHook puts its averages in the place of the weights.
    replicated = read_checkpoint(replicated / 'epoch_4.pth')['ema_state_dict']
    weights = read_checkpoint(sharded / 'epoch_4.pth')['state_dict']
    for name, value in weights.items():
        torch.testing.assert_close(
            value, replicated[f'module.{name}'], rtol=1e-4, atol=1e-6)
    assert apis.test(
        arguments['config'],
        str(sharded / 'epoch_4.pth'),
        data_root=arguments['data_root'],
        work_dir=str(tmp_path))


def test_resuming_names_another_kind_of_training(runs, tmp_path):
    (replicated, arguments), (sharded, _) = runs['detector'], runs['sharded']
    message = 'saved {} FSDP, and this config trains {} it'
    with pytest.raises(apis.MMHierError, match=message.format('by', 'without')):
        apis.train(**dict(
            arguments,
            work_dir=str(tmp_path),
            resume=str(sharded / 'epoch_2.pth')))
    runner = SimpleNamespace(
        _resume=True, strategy=SimpleNamespace(whole_model=nn.Linear(1, 1)))
    with pytest.raises(match=message.format('without', 'by')):
        CheckpointFitHook(complete=True).after_load_checkpoint(
            runner, read_checkpoint(replicated / 'epoch_2.pth'))


def test_sharding_needs_a_launcher(runs, tmp_path):
    arguments = dict(runs['sharded'][1], work_dir=str(tmp_path))
    with pytest.raises(apis.MMHierError, match='tools/dist_train.sh'):
        apis.train(**arguments)


@pytest.mark.parametrize('name', ['segmentor_tested', 'HATNet_tested'])
def test_evaluation_counts_each_of_three_images_once(name, runs, tmp_path):
    folder, arguments = runs[name]
    apis.test(**dict(arguments, work_dir=str(tmp_path)))
    one, two = (
        json.loads(path.read_text()) for place in (tmp_path, folder)
        for path in place.glob('test_record_*.json'))
    for key in ('metrics', 'per_class'):
        assert one[key] == two[key]
    assert any(0 < value < 100 for value in one['metrics'].values())
