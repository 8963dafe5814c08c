"""Every config loads, builds, gives every parameter a gradient, predicts."""
import logging
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import nn
from mmhier.apis import load_config
from mmhier.engine.amp import AutocastOptimWrapper, use_amp
from .config_numbers import (
    DROP_PATH,
    IMAGENET_DROP_PATH,
    PARAMETERS,
    PUBLISHED_MILLIONS,
)
from .config_zoo import (
    CONFIGS,
    DETECTOR_VARIANTS,
    HEIGHT,
    ROOT,
    VARIANTS,
    WIDTH,
    WITH_3X,
    WITH_TRANSFORMERS,
    ZOO,
    build,
    generated_batch,
    num_classes,
    read,
    register_all,
    shrink,
)

OVERFIT = 'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_overfit_coco-mini.py'
COCO_MINI = ROOT.parent / 'shared' / 'data' / 'coco_mini'


@pytest.fixture(scope='module', autouse=True)
def quiet_registered_modules():
    register_all()
    # One line per parameter otherwise.
    MMLogger.get_current_instance().setLevel(logging.WARNING)


def variant_and_head(name: str):
    """Such as 'lit-tiny' and 'retinanet' of a path."""
    stem = Path(name).stem
    if '_in1k' in stem:
        return stem.split('_')[0], 'in1k'
    head, variant, *_ = stem.split('_')
    if head == 'mask2former':
        head += '-semantic' if 'ade20k' in stem else '-instance'
    return variant, head


def smallest_of_each_recipe() -> list[str]:
    """Config of the smallest variant of each family, head and schedule.

    LIT has a recipe for tiny, and one for the others.
    """
    smallest: dict = {}
    for variant in VARIANTS:  # the smallest come first
        for name in ZOO:
            found, head = variant_and_head(name)
            if found == variant:
                recipe = variant if found == 'lit-tiny' else found.split('-')[0]
                smallest.setdefault((recipe, head, '3x' in name), name)
    return list(smallest.values())


def trained() -> list:
    """All configs, those of the smallest variants in the slow lane too."""
    small = smallest_of_each_recipe()
    marks = [pytest.mark.zoo, pytest.mark.slow]
    return [
        pytest.param(name, marks=marks if name in small else marks[:1])
        for name in ZOO
    ]


def test_every_variant_has_every_config():
    wanted = set()
    for variant in VARIANTS:
        batch = '32xb128' if variant.startswith('accvit') else '8xb128'
        names = [
            f'{variant}_{batch}_in1k', f'mask-rcnn_{variant}_fpn_1x_coco',
            f'retinanet_{variant}_fpn_1x_coco',
            f'upernet_{variant}_160k_ade20k-512x512',
            f'semantic-fpn_{variant}_80k_ade20k-512x512'
        ]
        if variant in WITH_3X:
            names += [
                f'mask-rcnn_{variant}_fpn_ms-3x_coco',
                f'cascade-mask-rcnn_{variant}_fpn_ms-3x_coco'
            ]
        if variant in WITH_TRANSFORMERS:
            names += [
                f'dino-4scale_{variant}_12e_coco',
                f'dino-4scale_{variant}_36e_coco',
                f'mask2former_{variant}_lsj-50e_coco',
                f'mask2former_{variant}_160k_ade20k-512x512'
            ]
        family = variant.split('-')[0]
        wanted |= {f'configs/{family}/{n}.py' for n in names}
    for variant in DETECTOR_VARIANTS:
        wanted |= {
            f'configs/litv2/{head}_{variant}_fpn_1x_coco.py'
            for head in ('mask-rcnn', 'retinanet')
        }
    wanted.add('configs/litv2/litv2-base_8xb128_in1k-384.py')
    assert set(ZOO) == wanted and len(wanted) == 158


@pytest.mark.parametrize('name', CONFIGS)
def test_loads_and_reads_back_as_the_same(name, tmp_path):
    # Reads it, refuses keys of OpenMMLab 2.x.
    load_config(str(ROOT / name), work_dir=str(tmp_path / 'work'))
    cfg = read(name)
    path = tmp_path / 'config.py'
    cfg.dump(path)
    assert '://' not in path.read_text().replace('timm://', '')
    assert Config.fromfile(path).to_dict() == cfg.to_dict()


@pytest.mark.parametrize('name', ZOO)
def test_uses_the_types_of_the_frameworks(name):
    """Only backbones, and heads that mmpretrain lacks, are mmhier's."""
    cfg = read(name)
    ours = re.findall(r"'type': 'mmhier\.(\w+)'", str(cfg.model.to_dict()))
    head = {'hatnet': ['DropoutClsHead'], 'accvit': ['ACCViTClsHead']}
    family = Path(name).parts[1]
    extra = head.get(family, []) if '_in1k' in name else []
    backbone = dict(
        hatnet='HATNet', lit='LIT', litv2='LITv2', hvt='HVT', accvit='ACCViT')
    assert sorted(ours) == sorted([backbone[family], *extra])
    expected = dict(mmdet=80, mmseg=150, mmpretrain=1000)
    assert num_classes(cfg) == expected[cfg.default_scope]


@pytest.mark.parametrize('variant', [*VARIANTS, *DETECTOR_VARIANTS])
def test_backbone_bases_state_their_channels(variant):
    cfg = read(f'configs/_base_/backbones/{variant}.py')
    with torch.device('meta'):
        backbone = MODELS.build(cfg.backbone)
    assert cfg.in_channels == list(backbone.out_channels)


@pytest.mark.parametrize('name', ZOO)
def test_parameters_and_channels(name):
    cfg = read(name)
    variant, head = variant_and_head(name)
    model = build(cfg, 'meta')
    count = sum(p.numel() for p in model.parameters())
    assert count == PARAMETERS[variant][head]
    check_channels(model, cfg)
    family = variant.split('-')[0]
    rate = DROP_PATH[variant] if family != 'hvt' else 0.1
    if head == 'in1k':
        rate = IMAGENET_DROP_PATH.get(variant, rate)
    assert cfg.model.backbone.drop_path_rate == rate


@pytest.mark.parametrize('name', smallest_of_each_recipe())
def test_rates_and_decay(name):
    cfg = read(name)
    check_groups(build(cfg, 'meta'), cfg, name)


@pytest.mark.parametrize('variant', PUBLISHED_MILLIONS)
def test_parameters_of_published_detectors(variant):
    """Published figures are rounded: half a million either way, or 1 %."""
    for head, millions in PUBLISHED_MILLIONS[variant].items():
        ours = PARAMETERS[variant][head] / 1e6
        assert abs(ours - millions) < max(0.5, 0.01 * millions)


def check_channels(model: nn.Module, cfg: Config) -> None:
    """The contract of the backbone, and strides that heads do state."""
    backbone = model.backbone
    assert all(p.requires_grad for p in model.parameters())
    if cfg.default_scope == 'mmpretrain':
        assert model.head.in_channels == backbone.out_channels[-1]
        assert model.head.num_classes == 1000
        assert model.data_preprocessor.batch_augments is not None
        return
    strides = list(backbone.strides)
    if 'pixel_decoder' in str(cfg.model):
        instance = cfg.default_scope == 'mmdet'
        head = model.panoptic_head if instance else model.decode_head
        assert head.num_classes == (80 if instance else 150)
        decoder = head.pixel_decoder
        assert decoder.strides == strides
        convs = [*decoder.input_convs[::-1], *decoder.lateral_convs[::-1]]
        assert [c.conv.in_channels
                for c in convs[-1:] + convs[:-1]] == list(backbone.out_channels)
        return
    if cfg.default_scope == 'mmseg':
        head = model.decode_head
        maps = list(backbone.out_channels)
        if model.with_neck:
            assert model.neck.in_channels == maps
            maps = [model.neck.out_channels] * 4
            assert list(head.feature_strides) == strides
        else:
            assert model.auxiliary_head.in_channels == maps[2]
            assert model.auxiliary_head.num_classes == 150
        assert list(head.in_channels) == maps and head.num_classes == 150
        return
    if cfg.model.type == 'DINO':
        assert strides == [8, 16, 32]
        assert [conv.conv.in_channels
                for conv in model.neck.convs] == list(backbone.out_channels)
        assert model.bbox_head.num_classes == 80
        return
    assert model.neck.in_channels == list(backbone.out_channels)
    levels = strides[model.neck.start_level:]
    levels += [levels[-1] * 2**i for i in (1, 2)]
    if not getattr(model, 'with_roi_head', False):
        anchors = model.bbox_head.prior_generator.strides
        assert model.bbox_head.num_classes == 80
        assert model.bbox_head.in_channels == model.neck.out_channels
        assert anchors == [(s, s) for s in levels[:5]]
        return
    anchors = model.rpn_head.prior_generator.strides
    assert anchors == [(s, s) for s in levels[:5]]
    roi_head = model.roi_head
    for kind, extractor in (('bbox_head', 'bbox_roi_extractor'),
                            ('mask_head', 'mask_roi_extractor')):
        heads, extractors = getattr(roi_head,
                                    kind), getattr(roi_head, extractor)
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head in heads:
            assert head.num_classes == 80
            assert head.in_channels == model.neck.out_channels
        for extractor in extractors:
            assert extractor.featmap_strides == strides
            assert extractor.out_channels == model.neck.out_channels


def check_groups(model: nn.Module, cfg: Config, name: str) -> None:
    """Each parameter in one group, with the recipe's decay and rate."""
    variant, head = variant_and_head(name)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    base = cfg.optim_wrapper.optimizer
    groups = {}
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            assert id(parameter) not in groups
            groups[id(parameter)] = (group['lr'], group['weight_decay'])
    named = dict(model.named_parameters())
    assert set(groups) == {id(p) for p in named.values()}
    norms = {
        id(p)
        for module in model.modules()
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
        for p in module.parameters(recurse=False)
    }
    without = no_decay_rule(variant, head, '3x' in name)
    for key, parameter in named.items():
        exempt = without(key, parameter, id(parameter) in norms)
        factor = 1.
        if head == 'in1k' and key.endswith('conv_offset.weight'):
            factor = 0.01
        elif head.startswith(('dino', 'mask2former')):
            depth, layers = model.backbone.get_layer_depth(key, 'backbone.')
            factor = 0.9**(layers - 1 - depth)
        lr, decay = groups[id(parameter)]
        assert decay == (0 if exempt else base.weight_decay), key
        assert lr == pytest.approx(base.lr * factor), key


def no_decay_rule(variant, head, is_3x):
    """(name, parameter, is_norm) -> whether the recipe exempts it."""
    family = variant.split('-')[0]

    def is_table(name):
        return 'pos_embed' in name or 'relative_position_bias_table' in name

    if head == 'in1k':
        exempt = dict(hvt='pos_embed', lit='relative_position_bias_table')
        exempt['lit'] = 'cls_token' if variant == 'lit-tiny' else exempt['lit']
        key = exempt.get(family, '(none)')
        if family == 'accvit':
            return lambda name, p, norm: 'bias_table' in name
        return lambda name, p, norm: p.ndim == 1 or key in name
    if head == 'dino-4scale':
        return lambda name, p, norm: False
    if head.startswith('mask2former'):
        learned = ('query_embed', 'query_feat', 'level_embed')
        return lambda name, p, norm: norm or is_table(name) or any(
            part in name for part in learned)
    if head == 'upernet' or is_3x:
        return lambda name, p, norm: norm or is_table(name)
    if head == 'semantic-fpn' or family == 'hatnet' or variant == 'lit-tiny':
        return lambda name, p, norm: False
    if family == 'litv2':
        return lambda name, p, norm: norm and head == 'mask-rcnn'
    if family == 'lit':
        # The authors' keys, which match parts of names.
        return lambda name, p, norm: 'norm' in name or 'bias_table' in name
    return lambda name, p, norm: norm or is_table(name)


@pytest.mark.parametrize('name', trained())
def test_a_step_changes_every_parameter_with_amp_too_and_it_predicts(name):
    torch.manual_seed(0)
    cfg = read(name)
    shrink(cfg)
    model = revert_sync_batchnorm(build(cfg)).train()
    # Zeros at first, through which position embeddings get no gradient, and
    # memory that only init_weights initializes.
    for key, parameter in model.named_parameters():
        if key.endswith(('sampling_offsets.weight', 'attention_weights.weight',
                         'level_embed')):
            nn.init.normal_(parameter, std=0.02)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    check_step(model, wrapper, cfg)

    check_groups(model, cfg, name)

    use_amp(cfg, 'bfloat16')
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(wrapper, AutocastOptimWrapper)
    check_step(model, wrapper, cfg)

    model.eval()
    batch = generated_batch(cfg, num_images=1)
    with torch.no_grad():
        results = model(
            **model.data_preprocessor(batch, training=False), mode='predict')
    assert len(results) == 1
    check_prediction(results[0], cfg)


def check_step(model: nn.Module, wrapper: OptimWrapper, cfg: Config) -> None:
    """One step gives a finite loss and changes every parameter."""
    data = model.data_preprocessor(generated_batch(cfg), training=True)
    with wrapper.optim_context(model):
        loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    before = [p.detach().clone() for p in model.parameters()]
    wrapper.zero_grad()
    wrapper.backward(loss)
    # Weight decay would change a parameter without a gradient too.
    dead = [
        n for n, p in model.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    assert not dead
    wrapper.step()
    same = [
        n for (n, p), old in zip(model.named_parameters(), before)
        if torch.equal(p, old)
    ]
    assert not same


def check_prediction(result, cfg: Config) -> None:
    if cfg.default_scope == 'mmpretrain':
        assert result.pred_score.shape == (1000, )
        assert result.pred_score.sum() == pytest.approx(1, abs=1e-4)
    elif cfg.default_scope == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, HEIGHT, WIDTH)
        assert result.seg_logits.data.shape == (150, HEIGHT, WIDTH)
        assert result.seg_logits.data.isfinite().all()
    else:
        instances = result.pred_instances
        assert 0 < len(instances) <= 10
        assert instances.bboxes.isfinite().all()
        assert instances.labels.max() < 80
        if 'roi_head' in cfg.model or 'panoptic_head' in cfg.model:
            shape = (len(instances), HEIGHT, WIDTH)
            assert instances.masks.shape == shape


def test_what_feeds_an_ignored_map_gets_zero_gradients():
    """HVT's stride-4 map, built but not read by RetinaNet."""
    cfg = read('configs/hvt/retinanet_hvt-ti-1_fpn_1x_coco.py')
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    cfg.model.neck.update(start_level=1, in_channels=cfg.in_channels)
    shrink(cfg)
    model = revert_sync_batchnorm(build(cfg)).train()
    data = model.data_preprocessor(generated_batch(cfg), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    dead = {n for n, p in model.named_parameters() if not p.grad.any()}
    assert dead and all('norm_2' in n or 'stride4' in n for n in dead)


@pytest.mark.parametrize('name', [
    'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py',
    'configs/hatnet/mask-rcnn_hatnet-small_fpn_ms-3x_coco.py',
    'configs/lit/retinanet_lit-tiny_fpn_1x_coco.py',
    'configs/lit/semantic-fpn_lit-tiny_80k_ade20k-512x512.py',
    'configs/hatnet/semantic-fpn_hatnet-tiny_80k_ade20k-512x512.py',
    'configs/lit/lit-tiny_8xb128_in1k.py',
    'configs/accvit/accvit-tiny_32xb128_in1k.py',
    'configs/hatnet/dino-4scale_hatnet-small_12e_coco.py',
    'configs/hatnet/mask2former_hatnet-small_lsj-50e_coco.py',
    'configs/hatnet/mask2former_hatnet-small_160k_ade20k-512x512.py',
])
def test_pipelines_run(name, tmp_path):
    """Each pipeline of the zoo, on one image of 80 x 60 pixels."""
    import cv2
    import numpy as np
    from mmcv.transforms import Compose
    from mmengine.registry import init_default_scope
    cfg = read(name)
    init_default_scope(cfg.default_scope)
    np.random.seed(0)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'a.png'), rng.integers(0, 255, (60, 80, 3)))
    cv2.imwrite(
        str(tmp_path / 'm.png'), rng.integers(0, 151, (60, 80), dtype=np.uint8))
    for loader in ('train_dataloader', 'test_dataloader'):
        # Keys that the three kinds of datasets pass on.
        box = dict(
            bbox=[8, 8, 40, 40],
            bbox_label=3,
            ignore_flag=0,
            mask=[[8, 8, 40, 8, 40, 40]])
        packed = Compose(cfg[loader].dataset.pipeline)(
            dict(
                img_path=str(tmp_path / 'a.png'),
                seg_map_path=str(tmp_path / 'm.png'),
                img_id=0,
                height=60,
                width=80,
                instances=[box],
                gt_label=3,
                seg_fields=[],
                reduce_zero_label=True,
                label_map=None))
        size = tuple(packed['inputs'].shape[1:])
        sample = packed['data_samples']
        if cfg.default_scope == 'mmdet':
            short = min(size)
            if loader == 'train_dataloader' and 'lsj' in name:
                assert max(size) <= 1024
            elif loader == 'train_dataloader' and ('ms-3x' in name
                                                   or 'dino' in name):
                assert 480 <= short <= 800
            else:
                assert short == 800
            assert len(sample.gt_instances) == 1
            assert (sample.gt_instances.labels == 3).all()
        elif cfg.default_scope == 'mmseg':
            if loader == 'test_dataloader':
                aligned = (512, 683)
                if 'semantic-fpn_hatnet' in name:
                    aligned = (512, 704)
                assert size == aligned
            labels = sample.gt_sem_seg.data
            assert labels.max() == 255 and 100 < labels[labels < 255].max()
        else:
            assert size == (224, 224) and packed['inputs'].shape[0] == 3
            assert sample.gt_label.item() == 3


@pytest.mark.parametrize('name, metric, loads', [
    ('coco_detection', 'bbox', dict(with_bbox=True)),
    ('coco_instance', ['bbox', 'segm'], dict(with_bbox=True, with_mask=True)),
    ('coco_instance_ms', ['bbox', 'segm'], dict(with_bbox=True,
                                                with_mask=True)),
])
def test_coco_datasets(name, metric, loads):
    cfg = read(f'configs/_base_/datasets/{name}.py')
    annotations = dict(type='LoadAnnotations', **loads)
    assert cfg.train_dataloader.dataset.pipeline[1] == annotations
    for phase in ('val', 'test'):
        evaluator = cfg[f'{phase}_evaluator']
        assert evaluator.metric == metric
        assert evaluator.proposal_nums == (1, 10, 100)
        dataset = cfg[f'{phase}_dataloader'].dataset
        assert dataset.pipeline[2] == annotations
        assert evaluator.ann_file == dataset.data_root + dataset.ann_file


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no coco_mini')
def test_overfit_config_trains_and_tests_on_the_same_listed_photos(tmp_path):
    from mmdet.registry import DATASETS, METRICS
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    cfg = load_config(
        str(ROOT / OVERFIT), work_dir=str(tmp_path), data_root=str(COCO_MINI))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = DATASETS.build(cfg[loader].dataset)
        ids = [
            info['img_id']
            for info in map(dataset.get_data_info, range(len(dataset)))
        ]
        assert ids == sorted(cfg.img_ids) and len(ids) == 8
    # Its 100 photos would count as missed.
    assert METRICS.build(cfg.test_evaluator)._coco_api is None


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no coco_mini')
def test_overfit_config_names_an_unknown_photo(tmp_path):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    cfg = load_config(
        str(ROOT / OVERFIT),
        work_dir=str(tmp_path),
        data_root=str(COCO_MINI),
        cfg_options={'train_dataloader.dataset.img_ids': [30, 31]})
    with pytest.raises(ValueError, match=r'not in .*train2017.json: \[31\]'):
        DATASETS.build(cfg.train_dataloader.dataset)
