"""--data-root reaches every dataset and evaluator."""
import os.path as osp

import pytest
from mmengine.config import Config
from mmhier.apis import MMHierError, set_data_root
from mmhier.engine.config import iter_datasets
from .conftest import CONFIGS


def coco(ann_file='annotations/a.json', **kwargs) -> dict:
    settings = dict(
        type='CocoDataset',
        data_root='data/coco/',
        ann_file=ann_file,
        data_prefix=dict(img='images/'))
    settings.update(kwargs)
    return settings


def redirected(dataset, root='/new', **top_level):
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), **top_level))
    set_data_root(cfg, root)
    return cfg


def test_plain_dataset():
    dataset = redirected(coco()).train_dataloader.dataset
    assert dataset.data_root == '/new'
    assert dataset.ann_file == 'annotations/a.json'
    assert dataset.data_prefix == dict(img='images/')


@pytest.mark.parametrize('wrapped', [
    dict(type='RepeatDataset', times=2, dataset=coco()),
    dict(type='ConcatDataset', datasets=[coco(), coco('b.json')]),
    dict(
        type='MultiImageMixDataset',
        dataset=dict(type='ClassBalancedDataset', dataset=coco())),
    [coco(), dict(type='RepeatDataset', times=2, dataset=coco())],
])
def test_wrappers(wrapped):
    cfg = redirected(wrapped)
    found = list(iter_datasets(cfg.train_dataloader, 'train_dataloader'))
    assert found and all(d['data_root'] == '/new' for _, d in found)
    assert 'data/coco' not in str(cfg.train_dataloader)


def test_paths_that_hold_the_old_root():
    cfg = redirected(
        dict(
            type='CocoDataset',
            ann_file='data/coco/annotations/a.json',
            data_prefix=dict(img='data/coco/train2017/')),
        data_root='data/coco/')
    dataset = cfg.train_dataloader.dataset
    assert osp.join(dataset.data_root,
                    dataset.ann_file) == ('/new/annotations/a.json')
    assert dataset.data_prefix.img == 'train2017/'


def test_evaluators():
    metric = dict(type='CocoMetric', ann_file='data/coco/annotations/v.json')
    cfg = redirected(
        coco(),
        val_evaluator=[metric, dict(type='VOCMetric')],
        test_evaluator=dict(
            type='Evaluator',
            metrics=[
                dict(
                    type='CocoPanopticMetric',
                    ann_file='data/coco/annotations/p.json',
                    seg_prefix='data/coco/panoptic/')
            ]))
    assert cfg.val_evaluator[0].ann_file == '/new/annotations/v.json'
    panoptic = cfg.test_evaluator.metrics[0]
    assert panoptic.ann_file == '/new/annotations/p.json'
    assert panoptic.seg_prefix == '/new/panoptic/'


def test_evaluator_without_annotation_file():
    metric = dict(type='CocoMetric', ann_file=None)
    assert redirected(coco(), val_evaluator=metric).val_evaluator == metric


@pytest.mark.parametrize('name', ['segmentor', 'classifier'])
def test_other_packages(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    set_data_root(cfg, '/new')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for _, dataset in iter_datasets(cfg[loader], loader):
            assert dataset['data_root'] == '/new'


def test_dataset_without_a_root():
    with pytest.raises(
            MMHierError, match='train_dataloader.dataset has no dat'):
        redirected(dict(type='CocoDataset', ann_file='a.json'))


def test_path_outside_of_the_root():
    with pytest.raises(
            MMHierError, match='ann_file=/elsewhere/a.json lies out'):
        redirected(coco('/elsewhere/a.json'))
    metric = dict(type='CocoMetric', ann_file='other/v.json')
    with pytest.raises(
            MMHierError, match='val_evaluator.ann_file=other/v.json'):
        redirected(coco(), val_evaluator=metric)
