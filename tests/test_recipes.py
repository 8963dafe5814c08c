"""The numbers of every recipe are those of its source."""
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from .config_zoo import (
    DETECTOR_VARIANTS,
    VARIANTS,
    WITH_3X,
    build,
    read,
    register_all,
)

SWIN_LIKE = ('lit-small', 'lit-medium', 'lit-base', 'litv2-small',
             'litv2-medium', 'litv2-base')


@pytest.fixture(scope='module', autouse=True)
def registered_modules():
    register_all()


def recipe(name: str) -> dict:
    """The numbers of a config that its spec sheet states."""
    cfg = read(name)
    warm_up, decay = ([None] + list(cfg.param_scheduler))[-2:]
    optimizer = cfg.optim_wrapper.optimizer
    clip = cfg.optim_wrapper.get('clip_grad') or {}
    start = warm_up and warm_up['start_factor'] * optimizer.lr
    return dict(
        lr=optimizer.lr,
        wd=optimizer.weight_decay,
        warm_up=(warm_up and warm_up['end'], start),
        end=decay.get('milestones', decay.get('eta_min')),
        length=cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')),
        clip=clip.get('max_norm'),
        batch=(cfg.train_dataloader.batch_size,
               cfg.auto_scale_lr.base_batch_size),
        sampler=cfg.train_dataloader.sampler.type)


def test_mask_rcnn_and_retinanet_1x_recipes():
    common = dict(
        warm_up=(500, pytest.approx(1e-7)),
        end=[8, 11],
        length=12,
        clip=None,
        batch=(2, 16),
        sampler='DefaultSampler',
        lr=1e-4,
        wd=1e-4)
    for variant in [*VARIANTS, *DETECTOR_VARIANTS]:
        family = variant.split('-')[0]
        for head in ('mask-rcnn', 'retinanet'):
            wanted = dict(common)
            if family in ('hvt', 'accvit'):
                wanted['wd'] = 0.05
            if family in ('lit', 'litv2') and head == 'mask-rcnn':
                wanted.update(lr=2e-4, warm_up=(500, pytest.approx(2e-7)))
            assert recipe(
                f'configs/{family}/{head}_{variant}_fpn_1x_coco.py') == wanted


def test_3x_recipe():
    for variant in WITH_3X:
        family = variant.split('-')[0]
        for head in ('mask-rcnn', 'cascade-mask-rcnn'):
            name = f'configs/{family}/{head}_{variant}_fpn_ms-3x_coco.py'
            assert recipe(name) == dict(
                lr=1e-4,
                wd=0.05,
                warm_up=(1000, pytest.approx(1e-7)),
                end=[27, 33],
                length=36,
                clip=None,
                batch=(2, 16),
                sampler='DefaultSampler')
            resize = read(name).train_dataloader.dataset.pipeline[2]
            assert resize.scales[0] == (1333, 480)
            assert resize.scales[-1] == (1333, 800)
            assert len(resize.scales) == 11


def test_segmentation_recipes():
    for variant in VARIANTS:
        family = variant.split('-')[0]
        assert recipe(
            f'configs/{family}/upernet_{variant}_160k_ade20k-512x512.py'
        ) == dict(
            lr=6e-5,
            wd=0.01,
            warm_up=(1500, pytest.approx(6e-11)),
            end=0.,
            length=160000,
            clip=None,
            batch=(2, 16),
            sampler='InfiniteSampler')
        assert recipe(
            f'configs/{family}/semantic-fpn_{variant}_80k_ade20k-512x512.py'
        ) == dict(
            lr=1e-4,
            wd=1e-4,
            warm_up=(None, None),
            end=1e-6 if family in ('lit', 'litv2') else 0.,
            length=80000,
            clip=None,
            batch=(2, 16),
            sampler='InfiniteSampler')


def stock(package: str, name: str) -> Config:
    """Config that mmdet or mmseg ships."""
    folder = Path(import_module(package).__file__).parent / '.mim/configs'
    return Config.fromfile(folder / name)


def leaves(settings, key: str = '') -> dict:
    """Values of nested dicts and lists by dotted key, without scopes."""
    if isinstance(settings, (list, tuple)):
        settings = dict(enumerate(settings))
    if isinstance(settings, dict):
        return {
            name: value
            for part, item in settings.items()
            for name, value in leaves(item, f'{key}.{part}').items()
        }
    if isinstance(settings, str):
        settings = settings.removeprefix('mmdet.')
    return {key: settings}


# Config of ours, and mmdet's or mmseg's own with a Swin, of which DINO has none
# with 4 scales and 12 epochs.
@pytest.mark.parametrize('name, package, source', [
    ('dino-4scale_hatnet-small_12e_coco', 'mmdet',
     'dino/dino-4scale_r50_8xb2-12e_coco.py'),
    ('dino-4scale_hatnet-small_36e_coco', 'mmdet',
     'dino/dino-5scale_swin-l_8xb2-36e_coco.py'),
    ('mask2former_hatnet-small_lsj-50e_coco', 'mmdet',
     'mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py'),
    ('mask2former_hatnet-small_160k_ade20k-512x512', 'mmseg',
     'mask2former/mask2former_swin-s_8xb2-160k_ade20k-512x512.py'),
])
def test_transformers_have_the_recipes_of_the_frameworks(name, package, source):
    ours, theirs = read(f'configs/hatnet/{name}.py'), stock(package, source)
    # Five scales are of Swin-L alone.
    skipped = ('.backbone', '.num_feature_levels', '.init_cfg', 'in_channels',
               'num_outs', 'num_levels', '.loss_panoptic', '.iou_thr',
               '.filter_low_score')
    found, wanted = leaves(ours.model), leaves(theirs.model)
    for key, value in wanted.items():
        if not any(part in key for part in skipped):
            # Those left out are defaults of the layers.
            assert found.get(key, value) == value, key
    assert not [
        key
        for key in found if key not in wanted and not any(part in key
                                                          for part in skipped)
    ]
    kinds = ('LinearLR', 'MultiStepLR', 'PolyLR')
    schedule = theirs.param_scheduler
    schedule = schedule if isinstance(schedule, list) else [schedule]
    assert leaves(ours.param_scheduler) == leaves(schedule)
    assert all(part.type in kinds for part in schedule)
    for key, value in leaves(ours.optim_wrapper.optimizer).items():
        assert leaves(theirs.optim_wrapper.optimizer)[key] == value
    assert ours.optim_wrapper.clip_grad == theirs.optim_wrapper.clip_grad
    for key in ('max_epochs', 'max_iters'):
        assert ours.train_cfg.get(key) == theirs.train_cfg.get(key)
    assert ours.auto_scale_lr.base_batch_size == 16
    batch = ours.train_dataloader
    assert batch.batch_size == theirs.train_dataloader.batch_size == 2
    assert augmentation(ours) == augmentation(theirs)
    # Ours instead of a tenth of the rate for the whole backbone.
    paramwise = ours.optim_wrapper.paramwise_cfg
    assert paramwise.layer_decay_rate == 0.9
    keys = dict(paramwise.get('custom_keys', {}))
    their_keys = theirs.optim_wrapper.paramwise_cfg.custom_keys
    assert their_keys.pop('backbone').lr_mult == 0.1
    for key, value in keys.items():
        assert value.decay_mult == their_keys[key].decay_mult == 0
    left = [k for k in their_keys if k not in keys and 'norm' not in k]
    assert left in ([], ['absolute_pos_embed'])


def augmentation(cfg: Config) -> dict:
    """Steps of the training pipeline, (long, short) sides of images sorted."""
    steps = {}
    for key, value in leaves(cfg.train_dataloader.dataset.pipeline).items():
        if 'backend_args' not in key and 'reduce_zero_label' not in key:
            steps[key] = value
    pairs = [k[:-2] for k in steps if k.endswith('.1') and '.scales.' in k]
    for pair in pairs:
        low, high = sorted((steps[f'{pair}.0'], steps[f'{pair}.1']))
        steps.update({f'{pair}.0': low, f'{pair}.1': high})
    return steps


def test_transformers_of_lit_and_litv2():
    """Bias tables for the training images, a norm on every map."""
    for name, side, norms in (
        ('dino-4scale_lit-small_12e_coco', 50, None),
        ('dino-4scale_lit-base_36e_coco', 50, None),
        ('mask2former_lit-base_lsj-50e_coco', 64, (0, 1, 2, 3)),
        ('mask2former_lit-small_160k_ade20k-512x512', 32, (0, 1, 2, 3)),
    ):
        backbone = read(f'configs/lit/{name}.py').model.backbone
        assert backbone.bias_size == side and backbone.with_cp
        assert backbone.get('out_norms') == norms
    for name in ('lsj-50e_coco', '160k_ade20k-512x512'):
        backbone = read(
            f'configs/litv2/mask2former_litv2-base_{name}.py').model.backbone
        assert backbone.out_norms == (0, 1, 2, 3)


def test_imagenet_recipes():
    deit = dict(
        lr=1e-3,
        wd=0.05,
        warm_up=(5, pytest.approx(1e-6)),
        end=1e-5,
        length=300,
        clip=None,
        batch=(128, 1024),
        sampler='RepeatAugSampler')
    runtime = {
        hook.type
        for hook in read('configs/_base_/default_runtime.py').custom_hooks
    }
    for variant in VARIANTS:
        family = variant.split('-')[0]
        wanted = dict(deit)
        if variant in ('hatnet-medium', 'hatnet-large'):
            wanted['clip'] = 1.0
        elif variant in SWIN_LIKE:
            wanted.update(
                warm_up=(20, pytest.approx(1e-6)),
                clip=5.0,
                sampler='DefaultSampler')
        elif family == 'hvt':
            wanted['wd'] = 0.025
        elif family == 'accvit':
            wanted.update(
                lr=3e-3,
                warm_up=(32, pytest.approx(3e-5)),
                length=400,
                clip=1.0,
                batch=(128, 4096),
                sampler='DefaultSampler')
        gpus = '32' if family == 'accvit' else '8'
        name = f'configs/{family}/{variant}_{gpus}xb128_in1k.py'
        assert recipe(name) == wanted
        cfg = read(name)
        hooks = {hook.type for hook in cfg.custom_hooks} - runtime
        assert hooks == ({'EMAHook'} if family == 'accvit' else set())
        augments = {a.type: a.alpha for a in cfg.model.train_cfg.augments}
        assert augments == (
            dict(Mixup=0.8) if family == 'accvit' else dict(
                Mixup=0.8, CutMix=1.0))


def test_lit_dense_settings():
    for variant in ('lit-small', 'lit-medium', 'lit-base'):
        detector = read(f'configs/lit/mask-rcnn_{variant}_fpn_1x_coco.py')
        segmentor = read(
            f'configs/lit/semantic-fpn_{variant}_80k_ade20k-512x512.py')
        assert detector.model.backbone.bias_size == 50
        assert 'out_norms' not in detector.model.backbone
        assert segmentor.model.backbone.bias_size == 32
        assert segmentor.model.backbone.out_norms == (0, 1, 2, 3)
        assert detector.model.backbone.with_cp
        assert segmentor.model.backbone.with_cp
    tables = dict(
        build(read('configs/lit/retinanet_lit-small_fpn_1x_coco.py'),
              'meta').backbone.named_parameters())
    sizes = {p.shape for n, p in tables.items() if n.endswith('bias_table')}
    assert sizes == {(9801, 12), (2401, 24)}


def test_litv2_dense_settings():
    for arch in ('small', 'medium', 'base'):
        for head in ('mask-rcnn', 'retinanet'):
            for suffix, size in (('', 2), ('-ws4', 4)):
                cfg = read(
                    f'configs/litv2/{head}_litv2-{arch}{suffix}_fpn_1x_coco.py')
                backbone = build(cfg, 'meta').backbone
                assert backbone.window_sizes == (0, 0, size, 1)
                assert backbone.with_cp == (arch == 'base')
                assert not hasattr(backbone, 'norm0')
        cfg = read(
            f'configs/litv2/semantic-fpn_litv2-{arch}_80k_ade20k-512x512.py')
        assert not cfg.model.backbone.ceil_mode
        assert cfg.model.backbone.out_norms == (0, 1, 2, 3)


def learning_rates(name: str, iterations: int) -> list:
    """Of weights and of offsets, in each iteration of epochs that short."""
    cfg = read(name)
    weight, offset = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    base = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD(
        [dict(params=[weight], lr=base),
         dict(params=[offset], lr=0.01 * base)])
    schedulers = []
    for scheduler in cfg.param_scheduler:
        options = dict(scheduler)
        kind = PARAM_SCHEDULERS.get(options.pop('type'))
        assert options.pop('convert_to_iter_based')
        schedulers.append(
            kind.build_iter_from_epoch(
                optimizer=optimizer, epoch_length=iterations, **options))
    rates = []
    for _ in range(cfg.train_cfg.max_epochs * iterations):
        rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.parametrize('name,epochs,warm_up,base,end', [
    ('litv2-small_8xb128_in1k', 300, 20, 1e-3, 1e-5),
    ('litv2-base_8xb128_in1k-384', 30, 5, 4e-5, 4e-7),
])
def test_litv2_follows_a_cosine_that_starts_with_the_warm_up(
        name, epochs, warm_up, base, end):
    rates = learning_rates(f'configs/litv2/{name}.py', 20)
    assert rates[0][0] == pytest.approx(base / 1000)
    for i in range(len(rates)):
        cosine = end + (base - end) * (1 + math.cos(math.pi * i /
                                                    (20 * epochs))) / 2
        if i < 20 * warm_up:
            # The authors' is linear alone, up to 1 % (7 % at 384) above.
            linear = base * (1e-3 + 0.999 * i / (20 * warm_up))
            assert rates[i][0] == pytest.approx(
                linear * cosine / base, rel=0.02)
        else:
            assert rates[i][0] == pytest.approx(cosine, rel=0.01)
            # Offsets start where all end.
            assert rates[i][1] == pytest.approx(end, rel=0.1)
