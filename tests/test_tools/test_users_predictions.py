"""Cases from users' days in tests and predictions."""
import json
import shutil

import cv2
import pytest
import torch
from mmengine.config import Config
from mmhier import apis
from mmhier.apis.predictor import Predictor
from mmhier.cli import web_demo
from mmhier.export.exporting import load_model
from mmhier.export.graphs import build_graphs
from .conftest import CONFIGS
from .test_users_cases import write
from .test_visualize import FakeGradio

CONFIG = {
    name: str(CONFIGS / f'{name}.py')
    for name in ('mask-rcnn', 'segmentor', 'classifier')
}

HEADS = [
    dict(
        type='FCNHead',
        in_channels=48,
        in_index=0,
        channels=16,
        num_convs=1,
        num_classes=2,
        norm_cfg=dict(type='BN')),
    dict(
        type='OCRHead',
        in_channels=48,
        in_index=0,
        channels=16,
        ocr_channels=8,
        num_classes=2,
        norm_cfg=dict(type='BN'))
]
# OCRNet.
CASCADE = dict(
    model__type='CascadeEncoderDecoder',
    model__num_stages=2,
    model__decode_head=HEADS)


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    """Files of random weights by config."""
    folder = tmp_path_factory.mktemp('weights')

    def write_weights(name: str) -> str:
        path = folder / f'{name}.pth'
        if not path.is_file():
            model, _ = load_model(CONFIG[name], None)
            torch.save(model.state_dict(), path)
        return str(path)

    return write_weights


def detection_folders(root):
    """Two images of the same name in two folders."""
    write(root)
    path = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    for image, name in zip(content['images'],
                           ('cam0/frame.jpg', 'cam1/frame.jpg')):
        (root / 'val2017' / name).parent.mkdir()
        shutil.copy(root / 'val2017' / image['file_name'],
                    root / 'val2017' / name)
        image['file_name'] = name
    path.write_text(json.dumps(content))
    return {'3', '4', 'cam0/frame', 'cam1/frame'}


def segmentation_folders(root):
    for kind, suffix in (('images', 'jpg'), ('annotations', 'png')):
        folder = root / kind / 'validation'
        for i in range(2):
            (folder / f'cam{i}').mkdir()
            shutil.move(folder / f'{i}.{suffix}',
                        folder / f'cam{i}' / f'frame.{suffix}')
    return {'cam0/frame', 'cam1/frame'}


def classification_folders(root):
    for name in ('bright', 'dark'):
        for i in range(2):
            shutil.move(root / 'val' / name / f'{name}_{i}.jpg',
                        root / 'val' / name / f'{i}.jpg')
    return {f'{name}/{i}' for name in ('bright', 'dark') for i in range(2)}


@pytest.mark.parametrize('name, sample, make', [
    ('mask-rcnn', None, detection_folders),
    ('segmentor', 'masks_root', segmentation_folders),
    ('classifier', 'folders_root', classification_folders),
])
def test_images_of_the_same_name(name, sample, make, weights, request,
                                 tmp_path):
    root = tmp_path / 'data'
    if sample is not None:
        shutil.copytree(request.getfixturevalue(sample), root)
    expected = make(root)
    folder = tmp_path / 'pictures'
    apis.test(
        CONFIG[name],
        weights(name),
        data_root=str(root),
        work_dir=str(tmp_path / 'work'),
        show_dir=str(folder))
    pictures = {
        path.relative_to(folder).with_suffix('').as_posix(): cv2.imread(path)
        for path in folder.rglob('*.jpg')
    }
    assert set(pictures) == expected
    assert all(p.shape[0] == 64 for p in pictures.values())


def test_pictures_without_a_visualizer(tmp_path):
    with pytest.raises(
            apis.MMHierError, match='--show-dir need a visualizer .*Universal'):
        apis.test(
            CONFIG['classifier'],
            'weights.pth',
            work_dir=str(tmp_path),
            show_dir=str(tmp_path / 'pictures'),
            cfg_options=dict(visualizer=None))


@pytest.fixture
def ocrnet(tmp_path):
    """Config of an OCRNet, and a file of random weights."""
    cfg = Config.fromfile(CONFIG['segmentor'])
    cfg.merge_from_dict({k.replace('__', '.'): v for k, v in CASCADE.items()})
    cfg.tta_model.type = 'mmhier.SegTTAModel'
    config = str(tmp_path / 'ocrnet.py')
    cfg.dump(config)
    model, _ = load_model(config, None)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    return config, str(tmp_path / 'weights.pth')


def test_cascade_in_every_tool(ocrnet, masks_root, tmp_path):
    arguments = dict(data_root=str(masks_root), work_dir=str(tmp_path / 'work'))
    assert 'mIoU' in apis.test(*ocrnet, tta=True, **arguments)
    photos = masks_root / 'images' / 'validation'
    result = apis.infer(*ocrnet, str(photos), out_dir=str(tmp_path / 'out'))
    assert result['classes'] == ['ground', 'tile']
    labels = [
        cv2.imread(tmp_path / 'out' / entry['labels'], cv2.IMREAD_GRAYSCALE)
        for entry in result['images']
    ]
    predict = web_demo.build_page(FakeGradio(), Predictor(*ocrnet), '')
    for i, (entry, map_) in enumerate(zip(result['images'], labels)):
        picture, record = predict(cv2.imread(photos / f'{i}.jpg')[..., ::-1])
        assert picture.shape == (64, 64, 3)
        assert record['segments'] == entry['segments']
        assert sum(s['pixels'] for s in record['segments']) == map_.size
    with pytest.raises(apis.MMHierError, match='CascadeEncoderDecoder cannot'):
        build_graphs(load_model(ocrnet[0], None)[0])
