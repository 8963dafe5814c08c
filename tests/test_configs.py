"""Every config loads, builds and agrees with its backbone; recipes hold."""
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmhier.apis import load_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob('configs/**/*.py')
    if '_base_' not in path.parts)
HATNET_1X = 'configs/hatnet/mask-rcnn_hatnet-{}_fpn_1x_coco.py'
OVERFIT = 'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_overfit_coco-mini.py'
COCO_MINI = ROOT.parent / 'shared' / 'data' / 'coco_mini'


def read(name: str) -> Config:
    return Config.fromfile(ROOT / name)


@pytest.fixture(scope='module', autouse=True)
def mmdet_scope():
    register_all_modules()


@pytest.fixture(scope='module', params=CONFIGS)
def config(request) -> Config:
    return read(request.param)


def test_every_family_folder_has_configs():
    assert {Path(name).parts[1] for name in CONFIGS} >= {'hatnet'}
    assert len(CONFIGS) >= 5


def test_loads_without_legacy_keys(config, tmp_path):
    load_config(config.filename, work_dir=str(tmp_path))


def test_names_no_url(config):
    assert '://' not in config.pretty_text


def test_dump_reads_back_as_the_same_config(config, tmp_path):
    path = tmp_path / 'config.py'
    config.dump(path)
    assert Config.fromfile(path).to_dict() == config.to_dict()


def test_builds_and_agrees_with_the_backbone(config):
    model = MODELS.build(config.model)
    channels = tuple(config.model.neck.in_channels)
    assert channels == tuple(model.backbone.out_channels)
    head = model.roi_head if model.with_roi_head else None
    if head is not None:
        strides = tuple(head.bbox_roi_extractor.featmap_strides)
        assert strides == model.backbone.strides[:len(strides)]
        if head.with_mask:
            assert head.mask_head.num_classes == head.bbox_head.num_classes
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('variant, drop_path_rate, millions', [
    ('tiny', 0.1, 32.4),
    ('small', 0.1, 45.4),
    ('medium', 0.3, 62.6),
    ('large', 0.3, 82.7),
])
def test_hatnet_mask_rcnn_1x(variant, drop_path_rate, millions):
    """The recipe of PVT and P2T, and the parameters of the whole detector."""
    cfg = read(HATNET_1X.format(variant))
    assert cfg.model.backbone == dict(
        type='mmhier.HATNet', arch=variant, drop_path_rate=drop_path_rate)
    assert cfg.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4))
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_cfg.max_epochs == 12
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001,
                                                                     500, False)
    assert (steps.milestones, steps.gamma) == ([8, 11], 0.1)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    transforms = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
    assert transforms['Resize'].scale == (1333, 800)
    assert transforms['RandomFlip'].prob == 0.5
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)

    parameters = sum(p.numel() for p in MODELS.build(cfg.model).parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize('name, metric, loads', [
    ('coco_detection', 'bbox', dict(with_bbox=True)),
    ('coco_instance', ['bbox', 'segm'], dict(with_bbox=True, with_mask=True)),
])
def test_base_datasets(name, metric, loads):
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
    cfg = load_config(
        str(ROOT / OVERFIT), work_dir=str(tmp_path), data_root=str(COCO_MINI))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = DATASETS.build(cfg[loader].dataset)
        ids = [info['img_id'] for info in map(dataset.get_data_info,
                                              range(len(dataset)))]
        assert ids == sorted(cfg.img_ids) and len(ids) == 8
    # Its 100 photos would count as missed.
    assert METRICS.build(cfg.test_evaluator)._coco_api is None


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no coco_mini')
def test_overfit_config_names_an_unknown_photo(tmp_path):
    from mmdet.registry import DATASETS
    cfg = load_config(
        str(ROOT / OVERFIT),
        work_dir=str(tmp_path),
        data_root=str(COCO_MINI),
        cfg_options={'train_dataloader.dataset.img_ids': [30, 31]})
    with pytest.raises(ValueError, match=r'not in .*train2017.json: \[31\]'):
        DATASETS.build(cfg.train_dataloader.dataset)
