"""Cases from users' days in tests and predictions."""
import json
import shutil

import cv2
import pytest
import torch
from mmhier import apis
from mmhier.export.exporting import load_model
from .conftest import CONFIGS
from .test_users_cases import write

CONFIG = {
    name: str(CONFIGS / f'{name}.py')
    for name in ('mask-rcnn', 'segmentor', 'classifier')
}


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
