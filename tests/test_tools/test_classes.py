"""--classes reaches every dataset, and every head of the model."""
import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from mmhier.apis import MMHierError, load_config
from mmhier.datasets.classes import iter_num_classes, set_classes
from mmhier.engine.build import build_model
from .conftest import CONFIGS, DETECTOR
from .samples import CLASSES

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def coco(**kwargs) -> dict:
    return dict(type='CocoDataset', ann_file='a.json', **kwargs)


def config(model=None, dataset=None, scope='mmdet', **kwargs) -> Config:
    dataset = dataset or coco()
    loaders = {key: dict(dataset=dataset) for key in LOADERS}
    model = model or dict(
        type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=80))
    return Config(dict(default_scope=scope, model=model, **loaders, **kwargs))


@pytest.mark.parametrize('dataset', [
    coco(),
    coco(metainfo=dict(classes=('x', 'y', 'z'), palette=[(0, 0, 0)] * 3)),
    dict(type='RepeatDataset', times=2, dataset=coco()),
    dict(type='ConcatDataset', datasets=[coco(), coco()]),
])
def test_every_dataset(dataset):
    cfg = config(dataset=dataset)
    set_classes(cfg, ['cat', 'dog'])
    for key in LOADERS:
        found = cfg[key].dataset
        for one in found.get('datasets') or [found.get('dataset', found)]:
            assert one.metainfo == dict(classes=('cat', 'dog'))


def test_says_what_it_changes(capfd):
    cfg = config()
    set_classes(cfg, ['cat', 'dog'])
    assert cfg.model.bbox_head == dict(type='RetinaHead', num_classes=2)
    assert capfd.readouterr().out.strip().endswith(
        '2 classes from --classes: cat, dog (metainfo of 3 datasets, '
        'model.bbox_head.num_classes=2)')


@pytest.mark.parametrize(
    'scope, model, keys',
    [
        ('mmdet',
         dict(
             type='RetinaNet',
             bbox_head=dict(type='RetinaHead', num_classes=80)), ['bbox_head']),
        # Heads that leave their 80 to the default.
        ('mmdet',
         dict(
             type='CascadeRCNN',
             rpn_head=dict(type='RPNHead', num_classes=1),
             roi_head=dict(
                 type='CascadeRoIHead',
                 bbox_head=[dict(type='Shared2FCBBoxHead')] * 3,
                 mask_head=dict(type='FCNMaskHead'),
                 semantic_head=dict(
                     type='FusedSemanticHead', num_classes=183))), [
                         'roi_head.bbox_head.0', 'roi_head.bbox_head.1',
                         'roi_head.bbox_head.2', 'roi_head.mask_head'
                     ]),
        ('mmseg',
         dict(
             type='EncoderDecoder',
             decode_head=dict(type='UPerHead', num_classes=19),
             auxiliary_head=[dict(type='FCNHead', num_classes=19)
                             ]), ['decode_head', 'auxiliary_head.0']),
        ('mmpretrain',
         dict(
             type='ImageClassifier',
             data_preprocessor=dict(num_classes=1000),
             head=dict(type='LinearClsHead',
                       num_classes=1000)), ['head', 'data_preprocessor']),
        # Mask2Former for instances, in mmdet's terms and in mmseg's.
        ('mmdet',
         dict(
             type='Mask2Former',
             panoptic_head=dict(
                 type='Mask2FormerHead',
                 num_things_classes=80,
                 num_stuff_classes=0),
             panoptic_fusion_head=dict(
                 type='MaskFormerFusionHead',
                 num_things_classes=80,
                 num_stuff_classes=0)),
         ['panoptic_head', 'panoptic_fusion_head']),
    ])
def test_every_head(scope, model, keys):
    dataset = dict(
        mmseg=dict(type='BaseSegDataset'),
        mmpretrain=dict(type='CustomDataset', data_prefix='absent'))
    cfg = config(model, dataset.get(scope), scope)
    set_classes(cfg, ['a', 'b', 'c'])
    kind = 'things_classes' if 'panoptic_head' in model else 'classes'
    expected = {f'model.{key}.num_{kind}': 3 for key in keys}
    assert dict(iter_num_classes(cfg)) == expected
    if 'rpn_head' in model:
        assert cfg.model.rpn_head.num_classes == 1
        assert cfg.model.roi_head.semantic_head.num_classes == 183


def test_panoptic_models_are_refused():
    head = dict(
        type='MaskFormerHead', num_things_classes=80, num_stuff_classes=53)
    cfg = config(dict(type='MaskFormer', panoptic_head=head))
    assert not dict(iter_num_classes(cfg))
    with pytest.raises(
            MMHierError,
            match='--classes: model.panoptic_head tells things from stuff'):
        set_classes(cfg, ['a'])


def test_a_preprocessor_at_the_top_level_and_batch_augmentations():
    """As in mmpretrain's own configs."""
    augments = [dict(type='Mixup', alpha=0.8, num_classes=1000)]
    cfg = config(
        dict(
            type='ImageClassifier',
            head=dict(type='LinearClsHead', num_classes=1000),
            train_cfg=dict(augments=augments)),
        dict(type='CustomDataset', data_prefix='absent'),
        'mmpretrain',
        data_preprocessor=dict(
            num_classes=1000, batch_augments=dict(augments=augments)))
    set_classes(cfg, ['a', 'b'])
    assert cfg.data_preprocessor == dict(
        num_classes=2,
        batch_augments=dict(
            augments=[dict(type='Mixup', alpha=0.8, num_classes=2)]))
    assert cfg.model.train_cfg.augments[0].num_classes == 2
    assert 'data_preprocessor.num_classes' in dict(iter_num_classes(cfg))


def test_a_classifier_of_mmpretrain_takes_a_step():
    """With Mixup and num_classes at the top level (mmpretrain #873)."""
    cfg = config(
        dict(
            type='ImageClassifier',
            backbone=dict(type='mmhier.HATNet', arch='tiny', out_indices=(3, )),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=384),
            train_cfg=dict(augments=dict(type='Mixup', alpha=0.8))),
        dict(type='CustomDataset', data_prefix='absent'),
        'mmpretrain',
        data_preprocessor=dict(num_classes=1000))
    set_classes(cfg, ['a', 'b'])
    model = build_model(cfg)
    samples = [DataSample().set_gt_label(i) for i in (0, 1)]
    data = model.data_preprocessor(
        dict(inputs=torch.rand(2, 3, 64, 64), data_samples=samples), True)
    assert model(**data, mode='loss')['loss'].isfinite()


@pytest.mark.parametrize('weights, expected', [
    ([1., 1., 1.], [1.] * 2),
    ([1., 1., 1., 0.1], [1., 1., 0.1]),
    ([1., 2.], [1., 2.]),
])
def test_weights_of_the_classes_in_a_loss(weights, expected):
    """DETR and Mask2Former have one more, for "no object"."""
    loss = dict(type='CrossEntropyLoss', class_weight=weights)
    head = dict(type='FCNHead', num_classes=3, loss_decode=[loss])
    cfg = config(
        dict(type='EncoderDecoder', decode_head=head),
        dict(type='BaseSegDataset'), 'mmseg')
    set_classes(cfg, ['a', 'b'])
    assert cfg.model.decode_head.loss_decode[0].class_weight == expected


def test_weights_that_differ_by_class():
    loss = dict(type='CrossEntropyLoss', class_weight=[1., 2., 1.])
    head = dict(type='FCNHead', num_classes=3, loss_decode=loss)
    cfg = config(
        dict(type='EncoderDecoder', decode_head=head),
        dict(type='BaseSegDataset'), 'mmseg')
    with pytest.raises(
            MMHierError,
            match='--classes: model.decode_head.loss_decode.class_weight has a'
            ' weight for each of 3 classes: set 2 weights'):
        set_classes(cfg, ['a', 'b'])


def test_a_model_without_heads():
    with pytest.raises(
            MMHierError, match='model RPN has no head with num_clas'):
        set_classes(
            config(dict(type='RPN', rpn_head=dict(num_classes=1))), ['a'])


@pytest.mark.parametrize('topk, kept', [((1, 5), (1, )), ((5, ), (1, )), (1, 1),
                                        ((1, 2), (1, 2))])
def test_accuracy_guesses_no_more_often_than_there_are_classes(topk, kept):
    cfg = config(val_evaluator=dict(type='Accuracy', topk=topk))
    set_classes(cfg, ['a', 'b'])
    assert cfg.val_evaluator.topk == kept


def test_more_classes_than_colours():
    """mmdet's pictures need a colour each; without a palette it draws any."""
    cfg = config()
    set_classes(cfg, [f'class {i}' for i in range(90)])
    assert cfg.val_dataloader.dataset.metainfo['palette'] is None


def test_names_from_a_file(tmp_path):
    path = tmp_path / 'names.txt'
    path.write_text('traffic light\n\n  dog \n')
    cfg = config()
    set_classes(cfg, str(path))
    assert cfg.train_dataloader.dataset.metainfo.classes == ('traffic light',
                                                             'dog')


@pytest.mark.parametrize('names, message', [
    (['a', 'b', 'a'], '--classes names a twice: expected each class once'),
    (['absent.txt'], '--classes absent.txt cannot be read as text'),
    ([], '--classes names no class'),
])
def test_names_that_cannot_be_used(names, message):
    with pytest.raises(MMHierError, match=message):
        set_classes(config(), names)


def test_an_empty_file(tmp_path):
    (tmp_path / 'names.txt').write_text('\n')
    with pytest.raises(MMHierError, match='names.txt names no class'):
        set_classes(config(), str(tmp_path / 'names.txt'))


def test_auto_takes_the_order_of_the_json(coco_root, tmp_path):
    arguments = dict(
        data_root=str(coco_root), work_dir=str(tmp_path), classes='auto')
    cfg = load_config(
        DETECTOR,
        cfg_options={'train_dataloader.dataset.metainfo.classes': ('x', 'y')},
        **arguments)
    for key in LOADERS:
        assert cfg[key].dataset.metainfo['classes'] == CLASSES
    # Where only a test is run, the training json may be absent.
    cfg = load_config(
        DETECTOR,
        cfg_options={'train_dataloader.dataset.ann_file': 'absent.json'},
        **arguments)
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == 3


def test_auto_takes_the_names_of_the_folders(folders_root, tmp_path):
    cfg = load_config(
        str(CONFIGS / 'classifier.py'),
        data_root=str(folders_root),
        work_dir=str(tmp_path),
        classes=['auto'])
    for key in LOADERS:
        assert cfg[key].dataset.metainfo['classes'] == ('bright', 'dark')


def test_auto_finds_no_names_in_masks(masks_root, tmp_path):
    with pytest.raises(
            MMHierError,
            match='--classes auto needs an annotation fi'
            'le in the format of COCO, or a folder for each class'):
        load_config(
            str(CONFIGS / 'segmentor.py'),
            data_root=str(masks_root),
            work_dir=str(tmp_path),
            classes='auto')


def test_masks_of_a_published_set_keep_their_classes():
    ade = dict(type='ADE20KDataset')
    head = dict(type='FCNHead', num_classes=150)
    cfg = config(dict(type='EncoderDecoder', decode_head=head), ade, 'mmseg')
    set_classes(cfg, ['sky', 'wall'])
    assert cfg.model.decode_head.num_classes == 2
    with pytest.raises(
            MMHierError,
            match='--classes: cat is none of the classes'
            ' of ADE20KDataset.*BaseSegDataset.*docs/own_data.md'):
        set_classes(cfg, ['sky', 'cat'])
