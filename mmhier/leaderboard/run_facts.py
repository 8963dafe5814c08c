"""Facts of data, model and environment of a run, for its record."""
import hashlib
import json
import os
import os.path as osp
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn
import mmhier
from mmhier.analysis import count_config_complexity
from mmhier.datasets.wrappers import inner_datasets
from mmhier.engine.config import type_name
from mmhier.files import file_sha256
from mmhier.leaderboard.records import (
    DataRecord,
    EnvironmentRecord,
    FileRecord,
    ModelRecord,
)
from mmhier.ops import operator_source

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TASKS = dict(
    mmdet='detection', mmseg='segmentation', mmpretrain='classification')
# Of the maintained and of the original line of OpenMMLab.
_PACKAGES = ('torch', 'torchvision', 'numpy', 'onedl-mmengine', 'mmengine',
             'onedl-mmcv', 'mmcv', 'mmcv-lite', 'onedl-mmdetection', 'mmdet',
             'onedl-mmsegmentation', 'mmsegmentation', 'onedl-mmpretrain',
             'mmpretrain', 'pycocotools', 'faster-coco-eval', 'opencv-python',
             'opencv-python-headless', 'pillow')
_SIZE_KEYS = ('scale', 'scales', 'crop_size', 'size', 'scale_factor',
              'size_divisor')


def describe_file(path: str) -> FileRecord:
    """Size and sha256 of a file; of an URL only the path."""
    if '://' in path:
        return FileRecord(path, None, None)
    return FileRecord(path, osp.getsize(path), file_sha256(path))


def describe_data(
    dataset: Any, metric_files: Sequence[str] = ()) -> list[DataRecord]:
    """Describe the files that a built dataset reads.

    Every image is looked up, none is opened.

    Args:
        dataset (BaseDataset): Or a wrapper of some.
        metric_files (Sequence[str]): Annotation files that metrics read
            besides. Defaults to none.

    Returns:
        list[DataRecord]: One a dataset below the wrappers.
    """
    return [
        _describe_dataset(inner, metric_files)
        for inner in inner_datasets(dataset)
    ]


def _describe_dataset(dataset: Any, metric_files: Sequence[str]) -> DataRecord:
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    root = getattr(dataset, 'data_root', None) or ''
    prefix = getattr(dataset, 'data_prefix', None)
    prefix = prefix if isinstance(prefix, dict) else {}
    folder = prefix.get('img_path') or prefix.get('img') or root
    ann_file = getattr(dataset, 'ann_file', None)
    files = [ann_file] if isinstance(ann_file, str) else []
    unique = {osp.abspath(path): path for path in (*files, *metric_files)}
    annotations = [path for path in unique.values() if osp.isfile(path)]
    images, digest = _list_images(dataset, root)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return DataRecord(
        dataset=type(dataset).__name__,
        split=osp.basename(osp.normpath(folder)) if folder else '',
        data_root=root,
        annotations=[describe_file(path) for path in annotations],
        num_images=len(dataset),
        num_listed=_count_listed(annotations, folder, images),
        images_sha256=digest,
        num_classes=None if classes is None else len(classes))


def _list_images(dataset: Any, root: str) -> tuple[list[str], str | None]:
    """Paths of the images, and a hash over them and their masks."""
    if not hasattr(dataset, 'get_data_info'):
        return [], None
    images, digest = [], hashlib.sha256()
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        for key in ('img_path', 'seg_map_path'):
            path = info.get(key)
            if not isinstance(path, str):
                continue
            name = osp.relpath(path, root) if root else path
            size = os.stat(path).st_size if osp.isfile(path) else None
            digest.update(f'{name}\t{size}\n'.encode(errors='surrogateescape'))
            if key == 'img_path':
                images.append(path)
    return images, digest.hexdigest() if images else None


def _count_listed(annotations: list[str], folder: str,
                  images: list[str]) -> int | None:
    """Images in the annotation file, or else in the folder."""
    for path in annotations:
        if path.endswith('.json'):
            with open(path, encoding='utf-8') as file:
                # Entries are dropped as they are parsed: kept, they would
                # take several times the size of the file.
                content = json.load(
                    file, object_hook=lambda d: d if 'images' in d else None)
            if isinstance(content, dict):
                return len(content['images'])
        elif path.endswith('.txt'):
            with open(path, encoding='utf-8') as file:
                return sum(1 for line in file if line.strip())
    if not images or not osp.isdir(folder):
        return None
    suffixes = {osp.splitext(path)[1] for path in images}
    return sum(
        osp.splitext(name)[1] in suffixes
        for _, _, names in os.walk(folder, followlinks=True) for name in names)


def describe_environment(device: str | None = None) -> EnvironmentRecord:
    """Describe the interpreter, the packages and the machine.

    Args:
        device (str, optional): Such as 'cpu' or 'cuda:1'. Defaults to None,
            a GPU if there is one.
    """
    versions = {'mmhier': mmhier.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return EnvironmentRecord(
        python=platform.python_version(),
        platform=platform.platform(),
        device=_device_name(device),
        num_threads=torch.get_num_threads(),
        packages=versions,
        operators=operator_source(),
        commit=_commit())


def _device_name(device: str | None) -> str:
    if device != 'cpu' and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(mmhier.__file__).parents[1]
    if not (root / '.git').exists():
        return None
    try:
        asked = subprocess.run(('git', 'describe', '--always', '--dirty',
                                '--abbrev=40', '--exclude=*'),
                               cwd=root,
                               capture_output=True,
                               text=True,
                               timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None


def describe_model(cfg: Config, model: nn.Module,
                   image_size: Sequence[int] | None) -> ModelRecord:
    """Describe a model by its config, and count its cost.

    Args:
        cfg (Config): Of the model, without a wrapper for test-time
            augmentation.
        model (nn.Module): Built.
        image_size (Sequence[int], optional): Height and width to count
            multiply-adds for; None leaves them out.
    """
    backbone = cfg.model.get('backbone') or {}
    arch = backbone.get('arch', '')
    decode_head = cfg.model.get('decode_head') or cfg.model.get('head')
    if isinstance(decode_head, (list, tuple)):
        decode_head = decode_head[-1]
    head = decode_head['type'] if decode_head else cfg.model.type
    return ModelRecord(
        type=type_name(cfg.model.type),
        family=type_name(backbone.get('type')),
        variant=arch if isinstance(arch, str) else 'custom',
        head=type_name(head),
        schedule=describe_schedule(cfg),
        params=sum(p.numel() for p in model.parameters()),
        macs=_count_macs(cfg, image_size) if image_size else None,
        macs_size=list(image_size) if image_size else None)


def describe_schedule(cfg: Config) -> str:
    """How long a config trains, such as '12 epochs'."""
    train_cfg = cfg.get('train_cfg') or {}
    for key, unit in (('max_epochs', 'epochs'), ('max_iters', 'iterations')):
        if train_cfg.get(key) is not None:
            number = train_cfg[key]
            return f'{number} {unit}' if number != 1 else f'1 {unit[:-1]}'
    return ''


def _count_macs(cfg: Config, size: Sequence[int]) -> int | None:
    try:
        return count_config_complexity(cfg, size).macs
    except (RuntimeError, TypeError, AttributeError, ValueError,
            AssertionError) as error:
        # A model that cannot run on values of no meaning, such as one whose
        # head asks for the ground truth.
        print_log(f'the record has no FLOPs: {error}', logger='current')
        return None


def resizing_of(cfg: Config) -> list[dict[str, Any]]:
    """Transforms of the test pipeline that change the size of images.

    Args:
        cfg (Config): Its first dataset of ``test_dataloader`` is looked at.

    Returns:
        list[dict]: As in the config, tuples as lists.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset
                                         or 'datasets' in dataset):
        inner = dataset.get('dataset') or dataset['datasets']
        dataset = inner[0] if isinstance(inner, (list, tuple)) else inner
    return [
        as_json(step) for step in dataset.get('pipeline') or ()
        if isinstance(step, dict) and any(key in step for key in _SIZE_KEYS)
    ]


def as_json(value: Any) -> Any:
    """Copy of settings with what json has no word for written as text."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and abs(value) < float('inf'):
        return value
    return str(value)


def peak_memory() -> tuple[int | None, str]:
    """Bytes and whose they are, as :class:`CostRecord` has them."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), 'CUDA allocator'
    if resource is None:
        return None, 'not measured'
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == 'darwin' else 1024), 'resident'
