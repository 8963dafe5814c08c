from pathlib import Path

import pytest
from . import samples

CONFIGS = Path(__file__).parent / 'configs'
DETECTOR = str(CONFIGS / 'mask-rcnn.py')


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory) -> Path:
    return samples.write_coco(tmp_path_factory.mktemp('coco'))


@pytest.fixture(scope='session')
def masks_root(tmp_path_factory) -> Path:
    return samples.write_masks(tmp_path_factory.mktemp('masks'))


@pytest.fixture(scope='session')
def folders_root(tmp_path_factory) -> Path:
    return samples.write_folders(tmp_path_factory.mktemp('folders'))


@pytest.fixture(scope='session')
def detector_run(coco_root, tmp_path_factory):
    """Runner of one epoch of the slim Mask R-CNN; its work_dir holds it."""
    from mmhier import apis
    return apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path_factory.mktemp('detector')),
        seed=0)
