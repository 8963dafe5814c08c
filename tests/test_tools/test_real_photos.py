"""Configs of the zoo on photos of COCO, ADE20K and ImageNet."""
import pickle
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmhier import apis
from mmhier import visualization as vis
from mmhier.visualization import pictures
from .conftest import DETECTOR

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / 'shared' / 'data'
COCO_MINI = DATA / 'coco_mini'
ADE_MINI = DATA / 'ade_mini'
IMAGENET_MINI = DATA / 'imagenet_mini'
EMPTY, GRAY, CROWD = 508, 10125, 10432
# The folders of imagenet_mini.
WORDNET_IDS = ('n01440764', 'n02102040', 'n02979186', 'n03000684', 'n03028079',
               'n03394916', 'n03417042', 'n03425413', 'n03445777', 'n03888257')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not DATA.is_dir(), reason='no shared/data beside the repository')
]


def train_and_test(name: str, data_root: Path, tmp_path: Path,
                   options: dict) -> dict:
    """Metrics after a few iterations of a config; pictures in pictures/."""
    for phase in ('train', 'val', 'test'):
        options[f'{phase}_dataloader.num_workers'] = 0
        options[f'{phase}_dataloader.persistent_workers'] = False
    arguments = dict(
        config=str(ROOT / 'configs' / name),
        data_root=str(data_root),
        work_dir=str(tmp_path),
        cfg_options=options)
    runner = apis.train(no_validate=True, from_scratch=True, **arguments)
    assert runner.iter == 2
    checkpoint, = tmp_path.glob('*.pth')
    return apis.test(
        checkpoint=str(checkpoint),
        show_dir=str(tmp_path / 'pictures'),
        **arguments)


def change(picture: np.ndarray, photo: np.ndarray) -> float:
    """Mean absolute difference in gray values; that of JPEG is below 1."""
    return np.abs(picture.astype(float) - photo).mean()


@pytest.mark.parametrize('name, options, metrics', [
    ('accvit/retinanet_accvit-femto_fpn_1x_coco.py', {
        'model.test_cfg.score_thr': 0.
    }, ['bbox']),
    ('hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py', {
        'model.train_cfg.rpn_proposal.max_per_img': 50,
        'model.test_cfg.rpn.max_per_img': 50,
        'model.test_cfg.rcnn.score_thr': 0.
    }, ['bbox', 'segm']),
])
def test_detector(name, options, metrics, tmp_path):
    scale = (128, 96)
    options = {
        'train_dataloader.dataset.indices': 4,
        'train_dataloader.dataset.pipeline.2.scale': scale,
        'train_cfg.max_epochs': 1,
        'test_dataloader.dataset.indices': 2,
        'test_dataloader.dataset.pipeline.1.scale': scale,
        # Two iterations bring no score to the usual 0.3.
        'default_hooks.visualization.score_thr': 0.,
        **options
    }
    results = train_and_test(name, COCO_MINI, tmp_path, options)
    for metric in metrics:
        assert 0 <= results[f'coco/{metric}_mAP'] <= 1
        assert results[f'coco/{metric}_mAP_50'] <= 1
    photos = sorted((COCO_MINI / 'val2017').iterdir())[:2]
    assert len(list(tmp_path.rglob('pictures/*.jpg'))) == len(photos)
    for photo in photos:
        drawn, = tmp_path.rglob(f'pictures/{photo.name}')
        # Ground truth beside predictions.
        truth, prediction = np.split(cv2.imread(str(drawn)), 2, axis=1)
        photo = cv2.imread(str(photo))
        assert change(truth, photo) > 1
        assert change(prediction, photo) > 1
        assert change(truth, prediction) > 1


def test_segmentor(tmp_path):
    size = (64, 64)
    options = {
        'model.data_preprocessor.size': size,
        'train_dataloader.dataset.indices': 4,
        'train_dataloader.dataset.pipeline.2.scale': (256, 64),
        'train_dataloader.dataset.pipeline.3.crop_size': size,
        'train_cfg.max_iters': 2,
        'test_dataloader.dataset.indices': 2,
        'test_dataloader.dataset.pipeline.1.scale': (256, 64),
    }
    results = train_and_test('lit/upernet_lit-tiny_160k_ade20k-512x512.py',
                             ADE_MINI, tmp_path, options)
    for metric in ('mIoU', 'aAcc', 'mAcc'):
        assert 0 <= results[metric] <= 100
    photos = sorted((ADE_MINI / 'images/validation').iterdir())[:2]
    pictures = list(tmp_path.rglob('pictures/**/*.jpg'))
    assert len(pictures) == len(photos)
    for photo in photos:
        drawn, = (p for p in pictures if photo.stem in p.name)
        truth, prediction = np.split(cv2.imread(str(drawn)), 2, axis=1)
        photo = cv2.imread(str(photo))
        assert change(truth, photo) > 1
        assert change(prediction, photo) > 1
        assert change(truth, prediction) > 1


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader'])
def test_wall_is_class_0_of_ade20k(loader, tmp_path):
    from mmseg.registry import DATASETS
    cfg = apis.load_config(
        str(ROOT / 'configs/lit/upernet_lit-tiny_160k_ade20k-512x512.py'),
        data_root=str(ADE_MINI),
        work_dir=str(tmp_path))
    init_default_scope('mmseg')
    settings = cfg[loader].dataset
    # Labels as they are loaded, before anything is cut or mirrored.
    settings.pipeline = [
        step for step in settings.pipeline
        if step.type in ('LoadImageFromFile', 'LoadAnnotations')
    ]
    dataset = DATASETS.build(settings)
    assert dataset.metainfo['classes'][0] == 'wall'
    assert len(dataset) == (24 if loader == 'train_dataloader' else 13)
    num_walls = 0
    for i in range(len(dataset)):
        sample = dataset[i]
        label = sample['gt_seg_map']
        stored = cv2.imread(sample['seg_map_path'], cv2.IMREAD_UNCHANGED)
        assert ((label == 0) == (stored == 1)).all()
        assert ((label == 255) == (stored == 0)).all()
        assert (label[stored > 0] == stored[stored > 0] - 1).all()
        num_walls += (label == 0).any()
    assert num_walls > 5


def test_classifier(tmp_path):
    options = {
        'model.head.num_classes': len(WORDNET_IDS),
        'model.data_preprocessor.num_classes': len(WORDNET_IDS),
        'train_dataloader.batch_size': 8,
        # Five classes of thirty photos.
        'train_dataloader.dataset.indices': list(range(0, 150, 10)),
        'train_cfg.max_epochs': 1,
        'test_dataloader.batch_size': 8,
        'test_dataloader.dataset.indices': list(range(0, 100, 10)),
        'default_hooks.checkpoint.interval': 1,
    }
    for phase in ('train', 'val', 'test'):
        options[f'{phase}_dataloader.dataset.metainfo'] = dict(
            classes=WORDNET_IDS)
    results = train_and_test('hvt/hvt-ti-1_8xb128_in1k.py', IMAGENET_MINI,
                             tmp_path, options)
    assert 0 <= results['accuracy/top1'] <= results['accuracy/top5'] <= 100
    pictures = list(tmp_path.rglob('pictures/**/*.jpg'))
    assert len(pictures) == 10
    for path in pictures:
        picture = cv2.imread(str(path))
        photo, = IMAGENET_MINI.glob(f'val/*/{path.stem}.JPEG')
        photo = cv2.imread(str(photo))
        assert picture.shape == photo.shape
        # Class and score, in the upper left corner.
        assert change(picture[5:30, 5:100], photo[5:30, 5:100]) > 15
        assert change(picture[60:], photo[60:]) < 10


@pytest.mark.parametrize('name, data_root, number', [
    ('hatnet/mask-rcnn_hatnet-tiny_fpn_overfit_coco-mini.py', COCO_MINI, 8),
    ('lit/retinanet_lit-tiny_fpn_overfit_coco-mini.py', COCO_MINI, 4),
    ('hvt/upernet_hvt-ti-1_overfit_ade-mini.py', ADE_MINI, 4),
    ('hvt/semantic-fpn_hvt-ti-1_overfit_ade-mini.py', ADE_MINI, 4),
    ('hvt/hvt-ti-1_overfit_imagenet-mini.py', IMAGENET_MINI, 20),
])
def test_overfit_configs_test_on_their_training_photos(name, data_root, number,
                                                       tmp_path):
    cfg = apis.load_config(
        str(ROOT / 'configs' / name),
        data_root=str(data_root),
        work_dir=str(tmp_path))
    init_default_scope(cfg.default_scope)
    photos = {}
    for phase in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{phase}_dataloader'].dataset)
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        photos[phase] = sorted(info['img_path'] for info in infos)
    assert photos['train'] == photos['val'] == photos['test']
    assert len(set(photos['train'])) == number
    assert cfg.lowest_metrics
    if cfg.default_scope == 'mmpretrain':
        assert sorted(i['gt_label'] for i in infos) == sorted([*range(10)] * 2)
    if cfg.default_scope == 'mmseg':
        # The hall has walls.
        labels = dataset[2]['data_samples'].gt_sem_seg.data.unique()
        assert labels[0] == 0 and labels[-1] == 255


def test_unusual_photos_go_through_training_and_testing(tmp_path, capfd):
    options = {
        'model.roi_head.bbox_head.num_classes':
        80,
        'model.roi_head.mask_head.num_classes':
        80,
        'default_hooks.logger.interval':
        1,
        'test_dataloader.dataset.ann_file':
        'annotations/instances_train2017.json',
        'test_dataloader.dataset.data_prefix.img':
        'train2017/',
        'test_evaluator.ann_file':
        str(COCO_MINI / 'annotations/instances_train2017.json'),
    }
    for phase in ('train', 'test'):
        options.update({
            f'{phase}_dataloader.dataset.type':
            'mmhier.CocoSubset',
            f'{phase}_dataloader.dataset.img_ids': [EMPTY, GRAY, CROWD],
            f'{phase}_dataloader.dataset.metainfo':
            None
        })
    arguments = dict(
        data_root=str(COCO_MINI), work_dir=str(tmp_path), cfg_options=options)
    runner = apis.train(DETECTOR, no_validate=True, **arguments)
    # The gray one and the crowd; the empty one is left out.
    dataset = runner.train_dataloader.dataset
    ids = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
    assert ids == [GRAY, CROWD]
    assert runner.iter == 1
    assert 'loss: nan' not in capfd.readouterr().out

    out = tmp_path / 'predictions.pkl'
    metrics = apis.test(
        DETECTOR, str(tmp_path / 'epoch_1.pth'), out=str(out), **arguments)
    predictions = pickle.loads(out.read_bytes())
    assert [p['img_id'] for p in predictions] == [EMPTY, GRAY, CROWD]
    assert 0 <= metrics['coco/segm_mAP'] <= 1


PHOTO = str(COCO_MINI / 'val2017' / '000000000139.jpg')
SIZE = 160
LINE, GAP = 20, 6


def load_subject(name: str, **options) -> pictures.Subject:
    torch.manual_seed(0)
    subject, = pictures.load_subjects([name], device='cpu', cfg_options=options)
    return subject


@pytest.fixture(scope='module')
def lit() -> pictures.Subject:
    backbone = dict(out_type='featmap', out_indices=(0, 1, 2, 3))
    pooling = dict(type='GlobalAveragePooling')
    return load_subject('lit-small_8xb128_in1k', **{
        'model.backbone': backbone,
        'model.neck': pooling
    })


def panels_of(picture: np.ndarray,
              height: int,
              width: int,
              lines: int = 2) -> list:
    """Rows of panels, the first column of each, without their titles."""
    title = LINE * lines + 4
    return [
        picture[top + title:top + title + height, :width].astype(int)
        for top in range(0, len(picture), title + height + GAP)
    ]


@pytest.mark.parametrize('name', [
    'hatnet-tiny_8xb128_in1k', 'lit-tiny_8xb128_in1k',
    'accvit-femto_32xb128_in1k'
])
def test_attention_lies_over_the_photo(name):
    subject = load_subject(name)
    photo, scale = pictures.load_photo(PHOTO, SIZE)
    height, width = photo.shape[:2]
    point = 250 * scale[0], 160 * scale[1]
    maps = vis.attention_maps(subject.model.backbone, subject.normalize(photo),
                              point, 3)
    first, *panels = panels_of(
        pictures.draw_attention([subject], PHOTO, (250, 160), 3, size=SIZE),
        height, width)
    away = np.hypot(*np.ogrid[-point[1]:height - point[1],
                              -point[0]:width - point[0]]) > 12
    assert (first == photo)[away].all() and not (first == photo).all()
    gray = 0.6 * cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    assert len(panels) == len(maps)
    for panel, attention in zip(panels, maps):
        probs, cell = attention.probs, attention.cell
        torch.testing.assert_close(probs.sum((1, 2)), torch.ones(len(probs)))
        mean = probs.mean(0).numpy()
        seen = (mean > 0).repeat(cell, 0).repeat(cell, 1)
        assert np.abs(panel - gray)[away & ~seen].max(initial=0) <= 1
        # One colour for each cell, through which the photo is seen.
        colours = np.where(away[..., None], panel - 0.4 * gray, np.nan)
        cells = colours.reshape(height // cell, cell, -1, cell, 3)
        with warnings.catch_warnings():
            # Of a cell below the cross.
            warnings.simplefilter('ignore', RuntimeWarning)
            low, high = np.nanmin(cells, (1, 3)), np.nanmax(cells, (1, 3))
        assert np.nanmax((high - low)[mean > 0]) <= 1.01
        light = high.sum(2)
        assert light[mean == mean.max()].max() >= np.nanmax(light[mean > 0]) - 2


def test_offsets_lie_on_the_photo_where_they_were_put(lit):
    """A quarter of a token, two pixels, to the lower right."""
    photo, _ = pictures.load_photo(PHOTO, SIZE)
    height, width = photo.shape[:2]
    bias = lit.model.backbone.layers[1].downsample.dconv.conv_offset.bias
    with torch.no_grad():
        bias.fill_(0.25)
        picture = pictures.draw_offsets([lit], PHOTO, size=SIZE)
        bias.zero_()
    panel = panels_of(picture, height, width)[1]
    # Tokens of stride 8, merged in pairs.
    y, x = np.mgrid[3.5:height:8, 3.5:width:8]
    tap = (np.arange(height // 8)[:, None] % 2 * 2 + np.arange(width // 8) % 2)
    colours = np.array(pictures.TAP_COLOURS)[tap]

    def share(shift: float) -> float:
        """Of the points that have the colour of their tap."""
        found = panel[np.rint(y + shift).astype(int),
                      np.rint(x + shift).astype(int)]
        return (np.abs(found - colours).max(2) < 40).mean()

    assert share(2) > 0.99 and share(-2) == 0
    assert (panel == (photo * 0.7).astype(int)).all(2).mean() > 0.3


def test_receptive_field_of_mlps_is_their_patch(lit):
    """LIT attends from its third stage on."""
    photo = pictures._central_square(pictures.load_photo(PHOTO, SIZE)[0])
    images = lit.normalize(photo)
    panels = panels_of(
        pictures.draw_receptive_field([lit], PHOTO, SIZE), SIZE, SIZE, 3)
    for level, patch in ((0, 4), (1, 8)):
        field = vis.effective_receptive_field(lit.model.backbone, [images],
                                              level)
        rows, columns = field.nonzero().T
        for found in (rows, columns):
            assert (found.min(), found.max()) == (80, 80 + patch - 1)
        row, column, side = vis.field_square(field, 0.95)
        assert 80 <= row < 80 + patch and 80 <= column < 80 + patch
        assert side <= patch + 1
        # Black but for the patch, the squares around it and the scale bar.
        lit_up = panels[level].max(2) > 10
        assert lit_up[80:80 + patch, 80:80 + patch].all()
        lit_up[70:100, 70:100] = lit_up[-30:, :60] = False
        assert not lit_up.any()
    field = vis.effective_receptive_field(lit.model.backbone, [images], 2)
    assert (field > 0).all()


def test_equal_halves_of_a_photo_have_equal_features(lit, tmp_path):
    """As long as nothing is attended to, in LIT's stages 1 and 2."""
    photo, _ = pictures.load_photo(PHOTO, SIZE)
    twice = np.concatenate([photo[:, :128]] * 2, axis=1)
    path = str(tmp_path / 'twice.png')
    cv2.imwrite(path, twice[..., ::-1])
    picture = pictures.draw_features([lit], path, size=SIZE)
    right = picture[:, 256 + GAP:]
    first, *means = panels_of(picture, *twice.shape[:2])
    _, *colours = panels_of(right, *twice.shape[:2])
    assert (first == twice).all()
    for panels in (means, colours):
        for level, panel in enumerate(panels):
            cell = 4 * 2**level
            assert (panel == panel[::cell, ::cell].repeat(cell,
                                                          0).repeat(cell,
                                                                    1)).all()
            assert panel.std() > 20
            if level < 2:
                assert np.abs(panel[:, :128] - panel[:, 128:]).max() <= 2
