"""Checks of the data that a config names, before anything is built."""
import json
import os
import os.path as osp
from collections import defaultdict
from functools import lru_cache
from typing import Any, Iterable, List, Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope
from .config import iter_datasets, iter_metrics
from .errors import UserError

_COCO_METRICS = ('CocoMetric', 'mmhier.CocoMetric')
_IMAGE_KEYS = {'id', 'file_name', 'height', 'width'}
_ANNOTATION_KEYS = {'id', 'image_id', 'category_id', 'bbox', 'area'}


def check_data(cfg: Config, phases: Sequence[str]) -> None:
    """Check that the data of a config can be used.

    Folders and annotation files must exist. COCO-style json must be readable
    and complete, name the classes of the config, and list images that are all
    on disk. Data on remote backends is not looked at.

    Args:
        cfg (Config): Made by :func:`mmhier.apis.load_config`.
        phases (Sequence[str]): Which of 'train', 'val' and 'test' will run.

    Raises:
        UserError: Names the key, the file and what is wrong with it.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        for phase in phases:
            loader = f'{phase}_dataloader'
            for name, dataset in iter_datasets(cfg.get(loader), loader):
                _check_dataset(name, dataset)
            evaluator = f'{phase}_evaluator'
            for name, metric in iter_metrics(cfg.get(evaluator), evaluator):
                ann_file = metric.get('ann_file')
                _check_file(f'{name}.ann_file', ann_file)
                if ann_file and metric.get('type') in _COCO_METRICS:
                    _read_coco(ann_file)
    finally:
        _read_coco.cache_clear()


def _check_dataset(name: str, dataset: dict) -> None:
    """Check one dataset that is not a wrapper."""
    root = dataset.get('data_root') or ''
    if dataset.get('backend_args') or '://' in root:
        return
    if root and not osp.isdir(root):
        raise UserError(f'{name}.data_root={root} is not a folder: point the '
                        'config at your data with --data-root DIR')
    ann_file = dataset.get('ann_file')
    if isinstance(ann_file, str) and ann_file:
        ann_file = osp.join(root, ann_file)
        _check_file(f'{name}.ann_file', ann_file)
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    folders = {}
    for key in ('img', 'img_path'):
        if prefixes.get(key):
            folders[key] = osp.join(root, prefixes[key])
            if not osp.isdir(folders[key]):
                raise UserError(f'{name}.data_prefix.{key}={folders[key]} is '
                                'not a folder')
    with DATASETS.switch_scope_and_registry(None) as registry:
        dataset_class = registry.get(dataset['type'])
    if ann_file and _reads_coco(dataset_class):
        coco = _read_coco(ann_file)
        _check_classes(name, ann_file, coco['categories'],
                       _classes(dataset_class, dataset))
        _check_images(ann_file, coco['images'],
                      folders.get('img', root))


def _check_file(name: str, path: Any) -> None:
    if isinstance(path, str) and '://' not in path and not osp.isfile(path):
        raise UserError(f'{name}={path} does not exist: check the path, or '
                        'point the config at your data with --data-root DIR')


def _reads_coco(dataset_class: type) -> bool:
    """Whether a class reads json as mmdet's CocoDataset does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    return (isinstance(dataset_class, type)
            and issubclass(dataset_class, CocoDataset)
            and dataset_class.load_data_list is CocoDataset.load_data_list
            and dataset_class.parse_data_info is CocoDataset.parse_data_info)


@lru_cache(maxsize=1)
def _read_coco(path: str) -> dict:
    """Content of an annotation file with the keys that mmdet relies on."""
    try:
        with open(path, encoding='utf-8') as file:
            coco = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f'annotation file {path} is not readable json: {error}') from error
    for key in ('images', 'categories'):
        if not isinstance(coco, dict) or not isinstance(
                coco.get(key), list) or not coco[key]:
            raise UserError(
                f'annotation file {path} has no {key}: expected COCO '
                'instances json with "images", "annotations" and "categories"')
    _check_keys(path, 'images', coco['images'], _IMAGE_KEYS)
    _check_keys(path, 'categories', coco['categories'], {'id', 'name'})
    _check_keys(path, 'annotations', coco.get('annotations', []),
                _ANNOTATION_KEYS)
    return coco


def _check_keys(path: str, kind: str, entries: Iterable[dict],
                expected: set) -> None:
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not expected <= entry.keys():
            missing = expected - set(entry) if isinstance(
                entry, dict) else expected
            raise UserError(f'annotation file {path}: {kind}[{i}] lacks '
                            f'{", ".join(sorted(missing))}')


def _classes(dataset_class: type, dataset: dict) -> List[str]:
    """Class names that a dataset will use."""
    metainfo = dataset_class._load_metainfo(dataset.get('metainfo'))
    return list(metainfo.get('classes', ()))


def _check_classes(name: str, ann_file: str, categories: List[dict],
                   classes: List[str]) -> None:
    """Compare the json's categories with the config's classes.

    mmdet matches them by name but numbers them in the order of the json, so
    both must agree. Annotations of other categories are left out by mmdet.
    """
    names = [category['name'] for category in categories]
    hint = ('give the json\'s own with metainfo=dict(classes=(...)) in every '
            'dataset, and set model.num_classes')
    absent = [c for c in classes if c not in names]
    if absent:
        raise UserError(
            f'{name} has {len(classes)} classes, of which {ann_file} lacks '
            f'{len(absent)}: {_shorten(absent)}. Its own are '
            f'{_shorten(names)}: {hint}')
    used = [n for n in names if n in classes]
    if used != classes:
        raise UserError(
            f'the classes of {name} come in another order in {ann_file}, so '
            f'labels would be mixed up: {_shorten(classes)} against '
            f'{_shorten(used)}: {hint}')
    if len(used) < len(names):
        print_log(f'{name} leaves out {len(names) - len(used)} of the '
                  f'{len(names)} categories in {ann_file}')


def _check_images(ann_file: str, images: List[dict], folder: str) -> None:
    """Check that every listed image is on disk, listing each folder once."""
    listed = defaultdict(set)
    for image in images:
        subfolder, file_name = osp.split(image['file_name'])
        listed[osp.join(folder, subfolder)].add(file_name)
    missing = []
    for subfolder, names in listed.items():
        present = os.listdir(subfolder) if osp.isdir(subfolder) else ()
        missing += [
            osp.join(subfolder, n) for n in sorted(names.difference(present))
        ]
    if missing:
        raise UserError(f'{len(missing)} of the {len(images)} images in '
                        f'{ann_file} are not on disk, such as {missing[0]}')


def _shorten(names: List[str]) -> str:
    """At most five names."""
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(names[:5]) + more
