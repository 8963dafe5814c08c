"""Stock configs of mmdet, mmseg and mmpretrain with a backbone of ours."""
from pathlib import Path

import pytest
from mmhier.files import split_at_marks
from .plugging import CONFIGS, REASONS, configs_of, try_stock_config
from .table import BEGIN, END, PAGE, read_keys, show_keys, write_table

# In `make test-all`; the others are in `make test-zoo`.
OFTEN = ('atss', 'cascade_rcnn', 'ddq', 'deformable_detr', 'dino',
         'mask2former', 'sparse_rcnn', 'tood', 'yolox', 'deeplabv3plus', 'knet',
         'pspnet', 'segformer', 'upernet', 'convnext', 'mocov2')


def lane(name: str) -> pytest.MarkDecorator:
    often = name.split('/')[1] in OFTEN
    return pytest.mark.slow if often else pytest.mark.zoo


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=lane(name)) for name in CONFIGS])
def test_trains_and_predicts(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show_keys(try_stock_config(name)) == read_keys()[name]


def test_table_of_the_page():
    _, table, _ = split_at_marks(PAGE.read_text(), BEGIN, END, PAGE)
    assert list(read_keys()) == CONFIGS
    assert table == write_table(read_keys())


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmpretrain'])
def test_every_folder_is_in_a_table(package):
    folders = {
        f'{package}/{path.name}'
        for path in configs_of(package).iterdir()
        if path.name != '_base_' and any(path.glob('*.py'))
    }
    plugged = {str(Path(name).parent) for name in CONFIGS}
    assert not plugged & set(REASONS)
    assert folders <= plugged | set(REASONS)
