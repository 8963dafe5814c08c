"""Config mistakes that upstream asserts are named before the run."""
import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, TRANSFORMS
from mmhier import apis
from mmhier.apis import MMHierError, load_config
from mmhier.engine.runtime_checks import build_named, check_runtime
from mmhier.evaluation.dry_run import dry_evaluate
from .conftest import CONFIGS, DETECTOR

SEGMENTOR = str(CONFIGS / 'segmentor.py')
CLASSIFIER = str(CONFIGS / 'classifier.py')
MISTAKES = [
    ('train_cfg.max_epochs', '12', r"train_cfg.max_epochs='12': expected a wh"),
    ('train_cfg.val_interval', 0, 'train_cfg.val_interval=0: expected a whole'),
    ('train_cfg.max_epochs', 1.5, 'train_cfg.max_epochs=1.5: expected a wh'),
    ('val_dataloader.collate_fn.type', 'stack',
     "val_dataloader.collate_fn.type='stack': expected a function such as"),
    ('val_evaluator', None, 'val_evaluator is missing: state all of val_data'),
    ('optim_wrapper.optimizer.lr', -1.,
     'optim_wrapper.optimizer: AdamW cannot be built: Invalid learning rate'),
    ('optim_wrapper.accumulative_counts', 0,
     'optim_wrapper: OptimWrapper cannot be built: .*accumulative_counts at '),
    ('optim_wrapper.clip_grad', 1.,
     'optim_wrapper: OptimWrapper cannot be built: .*clip_grad.* should be'),
    ('optim_wrapper.clip_grad', dict(max_normal=1),
     "optim_wrapper.clip_grad={'max_normal': 1}: missing a .* 'max_norm'"),
    ('randomness', dict(seed='1'), "randomness.seed='1': expected a whole num"),
    ('default_hooks.checkpoint', dict(type='CheckpointHook', out_dir=__file__),
     f'default_hooks.checkpoint.out_dir {__file__} cannot be written to'),
    ('param_scheduler',
     [dict(type='MultiStepLR', begin=5, end=3, milestones=[1])],
     'param_scheduler.0: MultiStepLR cannot be built: end should be larger'),
    ('param_scheduler', [dict(type='LinearLR', start_factor=2.)],
     'param_scheduler.0: LinearLR cannot be built: Starting multiplicative'),
    ('param_scheduler',
     [dict(type='CosineAnnealingLR', T_max=2, eta_min=0, eta_min_ratio=0.1)
      ], 'param_scheduler.0: CosineAnnealingLR cannot be built'),
    ('default_hooks.checkpoint.save_best', ['auto', 'accuracy/top1'],
     'default_hooks.checkpoint: CheckpointHook cannot be built: .*"auto"'),
    ('custom_hooks', [dict(type='EarlyStoppingHook', monitor='nonsense')],
     'custom_hooks.0: EarlyStoppingHook cannot be built: .*nonsense'),
    ('custom_hooks', [dict(type='EMAHook', begin_iter=1, begin_epoch=1)],
     'custom_hooks.0: EMAHook cannot be built: `begin_iter` and `begin_epoch`'),
    ('custom_hooks', [dict(type='EMAHook', begin_epoch=9)],
     r'custom_hooks.0.begin_epoch=9 is after the last epoch.*max_epochs=1'),
]


@pytest.mark.parametrize('key, value, message', MISTAKES)
def test_mistakes_of_the_runtime(key, value, message, folders_root, tmp_path):
    options = {key: value}
    if key == 'default_hooks.checkpoint.save_best':
        options = {
            'default_hooks.checkpoint':
            dict(type='CheckpointHook', save_best=value)
        }
    if key in ('param_scheduler', 'custom_hooks'):
        config = tmp_path / 'config.py'
        cfg = Config.fromfile(CLASSIFIER)
        cfg[key] = value
        cfg.dump(config)
        options = {}
    else:
        config = CLASSIFIER
    arguments = dict(data_root=str(folders_root), cfg_options=options)
    with pytest.raises(MMHierError, match=message):
        apis.train(str(config), work_dir=str(tmp_path / 'work'), **arguments)


@pytest.mark.parametrize('options, message', [
    ({
        'train_dataloader.sampler.type': 'InfiniteSampler'
    }, 'train_dataloader.sampler: InfiniteSampler never ends.*max_iters'),
    ({
        'val_dataloader.sampler.type': 'InfiniteSampler'
    }, 'val_dataloader.sampler: InfiniteSampler never ends'),
])
def test_loops_that_never_end(options, message, tmp_path):
    cfg = load_config(CLASSIFIER, work_dir=str(tmp_path), cfg_options=options)
    with pytest.raises(MMHierError, match=message):
        check_runtime(cfg)


@pytest.mark.parametrize('scheduler, warnings', [
    (dict(type='MultiStepLR', milestones=[6, 8]), 1),
    (dict(type='MultiStepLR', milestones=[6, 8], by_epoch=False), 0),
    (dict(type='ReduceOnPlateauLR', monitor='accuracy/top1',
          rule='greater'), 0),
])
def test_schedules_that_never_step(scheduler, warnings, tmp_path):
    """Those that follow a metric step after each validation."""
    options = {
        'train_cfg':
        dict(_delete_=True, by_epoch=False, max_iters=9, val_interval=3),
        'param_scheduler': [scheduler]
    }
    found = check_runtime(
        load_config(CLASSIFIER, work_dir=str(tmp_path), cfg_options=options))
    assert found == warnings * [
        'param_scheduler.0 counts epochs, but the loop counts iterations, '
        'train_cfg.max_iters=9, so it never steps: set '
        'param_scheduler.0.by_epoch=False, and its numbers in iterations'
    ]


@pytest.mark.parametrize('options, message', [
    ({
        'train_dataloader.batch_size': 9,
        'train_dataloader.drop_last': True
    }, 'a dataloader of 4 images has no batch: set drop_last=False'),
    ({
        'val_dataloader.dataset.indices': 0
    }, 'val_dataloader.dataset.indices=0 leaves no image'),
])
def test_loops_that_never_begin(options, message, folders_root, tmp_path):
    with pytest.raises(MMHierError, match=message):
        apis.train(
            CLASSIFIER,
            data_root=str(folders_root),
            work_dir=str(tmp_path),
            cfg_options=options)


@pytest.mark.parametrize('config, key, value, message', [
    (SEGMENTOR, 'train_dataloader.dataset.dataset.pipeline', [
        dict(type='LoadImageFromFile'),
        dict(type='RandomCrop', crop_size=(0, 9))
    ],
     'train_dataloader.dataset.dataset.pipeline.1: RandomCrop cannot be built'),
    (DETECTOR, 'train_dataloader.dataset.pipeline.2',
     dict(type='RandomFlip', prob=1.5),
     'train_dataloader.dataset.pipeline.2: RandomFlip cannot be built'),
    (DETECTOR, 'train_dataloader.dataset.pipeline.2',
     dict(type='RandomFlip', chance=0.5),
     "pipeline.2: RandomFlip got an .* argument 'chance': remove it"),
    (CLASSIFIER, 'val_dataloader.dataset.pipeline', [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=9, edge='both')
    ], 'val_dataloader.dataset.pipeline.1: ResizeEdge cannot be built: .*both'),
])
def test_mistakes_of_a_pipeline(config, key, value, message, request, tmp_path):
    root = {
        SEGMENTOR: 'masks_root',
        DETECTOR: 'coco_root',
        CLASSIFIER: 'folders_root'
    }[config]
    cfg = load_config(
        config,
        work_dir=str(tmp_path),
        data_root=str(request.getfixturevalue(root)))
    owner, _, last = key.rpartition('.')
    part = cfg
    for name in owner.split('.'):
        part = part[int(name) if name.isdigit() else name]
    part[int(last) if last.isdigit() else last] = value
    with pytest.raises(MMHierError, match=message):
        apis.check_data(cfg, ('train', 'val'))


def test_metric_whose_package_is_missing(coco_root, tmp_path, monkeypatch):
    from mmdet.evaluation.metrics import coco_panoptic_metric
    monkeypatch.setattr(coco_panoptic_metric, 'panopticapi', None)
    cfg = load_config(
        DETECTOR, data_root=str(coco_root), work_dir=str(tmp_path))
    cfg.val_evaluator = dict(type='CocoPanopticMetric', format_only=False)
    with pytest.raises(
            MMHierError,
            match='val_evaluator: CocoPanopticMetric cannot be built: '
            'panopticapi is not installed'):
        dry_evaluate(cfg, 'val')


@TRANSFORMS.register_module()
class BrokenTransform:

    def __init__(self):
        raise AssertionError('a bug of its own')


def test_bugs_of_others_pass():
    with pytest.raises(AssertionError, match='a bug of its own'):
        build_named('pipeline.0', dict(type='BrokenTransform'), TRANSFORMS)


@pytest.mark.parametrize('config', [SEGMENTOR, DETECTOR, CLASSIFIER])
def test_sound_runtimes(config, tmp_path):
    # As in stock configs: a whole number by a division, and no validation.
    options = {'train_cfg.val_interval': 2., 'train_cfg.val_begin': 99}
    check_runtime(
        load_config(config, work_dir=str(tmp_path), cfg_options=options))
    assert HOOKS.get('CheckpointHook') is not None


def test_pretrained_of_a_stock_config(masks_root, tmp_path):
    with pytest.raises(
            MMHierError,
            match='model.pretrained=.*of another backbone than HATNet: set '
            'model.pretrained=None'):
        apis.train(
            SEGMENTOR,
            data_root=str(masks_root),
            work_dir=str(tmp_path),
            cfg_options={'model.pretrained': 'open-mmlab://resnet50_v1c'})
