"""Conversion of detection sets in YOLO's or Pascal VOC's format to COCO's."""
import json
import os
import os.path as osp
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from PIL import Image
from mmhier.datasets.coco_checks import (
    check_annotations,
    count_unused_classes,
    read_coco,
)
from mmhier.datasets.mask_checks import upright_size
from mmhier.errors import MMHierError
from mmhier.files import make_writable, replacing
from mmhier.progress import track

FORMATS = ('yolo', 'voc')
SPLITS = ('train', 'val', 'test')
IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@dataclass
class LabeledObject:
    """An object of an image.

    Attributes:
        label (int): Index of its class.
        box (np.ndarray): x1, y1, x2, y2 in pixels.
        polygons (list[np.ndarray]): Outlines, (N, 2) each; [] without a mask.
        is_ignored (bool): Whether neither training nor evaluation counts it.
    """
    label: int
    box: np.ndarray
    polygons: list[np.ndarray] = field(default_factory=list)
    is_ignored: bool = False


@dataclass
class SourceSet:
    """A set in another format, its label files not read yet.

    Attributes:
        classes (list[str]): Names in the order of the labels.
        splits (dict[str, list[tuple[Path, Path]]]): Images of 'train', 'val'
            and 'test', each with its label file, which may be missing.
        read (Callable): Returns the objects of a label file, given width and
            height of its image.
    """
    classes: list[str]
    splits: dict[str, list[tuple[Path, Path]]]
    read: Callable[[Path, int, int], list[LabeledObject]]


@dataclass
class ConvertedSplit:
    """Annotations of a split in COCO's format.

    Attributes:
        ann_file (Path): COCO json.
        images (Path): Folder that its file names are relative to.
        num_images (int): Number of images.
        num_objects (int): Number of annotations.
        files (list[str]): File names of the images.
    """
    ann_file: Path
    images: Path
    num_images: int
    num_objects: int
    files: list[str]


def convert_data(data_format: str,
                 source: str,
                 out_dir: str,
                 *,
                 copy_images: bool = False,
                 overwrite: bool = False,
                 warn: Callable[[str], None] = print) -> list[ConvertedSplit]:
    """Convert a set to COCO's format and layout.

    ``out_dir`` gets annotations/instances_train2017.json and train2017, a link
    to the images, and the same for val and test.

    Args:
        data_format (str): 'yolo' or 'voc'.
        source (str): Folder of the set, or its data.yaml.
        out_dir (str): Folder, created if it is missing.
        copy_images (bool): Copy the images instead of linking to their
            folder. Defaults to False.
        overwrite (bool): Replace files in ``out_dir``. Defaults to False.
        warn (Callable): Called with each warning. Defaults to print.

    Returns:
        list[ConvertedSplit]: Of the splits that the set has.

    Raises:
        MMHierError: If the set cannot be used or ``out_dir`` holds results.
    """
    target = Path(out_dir)
    found = open_source(data_format, source)
    for split in found.splits:
        images = target / f'{split}2017'
        for path in (target / _ann_file(split), images):
            if not overwrite and (path.exists() or path.is_symlink()):
                raise MMHierError(f'{path} exists: choose another folder, or '
                                  'replace it with --overwrite')
        if images.is_dir() and not images.is_symlink() and not copy_images:
            raise MMHierError(f'{images} is a folder, where a link to the '
                              'images would go: remove it, or copy the images '
                              'with --copy-images')
    make_writable('OUT', target)
    converted = write_splits(found, target, warn)
    for split, result in zip(found.splits, converted):
        _place_images(result, target / f'{split}2017', copy_images)
    return converted


def use_data_format(cfg: Config, data_format: str, source: str | None,
                    folder: str) -> None:
    """Convert a set and point the datasets and evaluators of a config at it.

    Training takes the split 'train'; validation and tests take 'val'.

    Args:
        cfg (Config): Detector with COCO datasets; changed in place.
        data_format (str): 'yolo' or 'voc'.
        source (str, optional): Folder of the set, or its data.yaml.
        folder (str): Gets the annotations.

    Raises:
        MMHierError: If the set cannot be used or does not fit the config.
    """
    from mmhier.datasets.classes import dataset_class_of
    from mmhier.datasets.data_checks import reads_coco
    from mmhier.engine.config import (
        DATALOADERS,
        EVALUATORS,
        iter_datasets,
        iter_metrics,
    )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if source is None:
        raise MMHierError(f'--data-format {data_format} needs the folder of '
                          'the set: name it with --data-root')
    found = open_source(data_format, source)
    missing = {'train', 'val'} - set(found.splits)
    if missing:
        raise MMHierError(f'{source} has no {missing.pop()} split, which '
                          '--data-format needs')
    found.splits.pop('test', None)
    train, val = write_splits(found, Path(folder), _log)
    for loader in DATALOADERS:
        split = train if loader == 'train_dataloader' else val
        for name, dataset in iter_datasets(cfg.get(loader), loader):
            if not reads_coco(dataset_class_of(dataset)):
                raise MMHierError(
                    f'--data-format {data_format} gives boxes and masks of '
                    f'objects, but {name} is of type {dataset["type"]}: take '
                    'a config of a detector on COCO')
            dataset.update(
                data_root='',
                ann_file=str(split.ann_file),
                data_prefix=dict(img=f'{split.images}/'))
    for evaluator in EVALUATORS:
        for _, metric in iter_metrics(cfg.get(evaluator), evaluator):
            if 'ann_file' in metric:
                metric['ann_file'] = str(val.ann_file)


def _log(line: str) -> None:
    print_log(f'warning: {line}')


def _ann_file(split: str) -> str:
    return osp.join('annotations', f'instances_{split}2017.json')


def open_source(data_format: str, source: str) -> SourceSet:
    """List the images and classes of a set.

    Args:
        data_format (str): 'yolo' or 'voc'.
        source (str): Folder of the set, or its data.yaml.

    Returns:
        SourceSet: Label files are not read yet.

    Raises:
        MMHierError: If supervision is not installed, or the set is not laid
            out as its format says.
    """
    try:
        import supervision  # noqa: F401
    except ImportError as error:
        raise MMHierError(
            f'the format {data_format} is read by supervision, which is not '
            'installed: run pip install "mmhier[supervision]"') from error
    if data_format == 'yolo':
        from .yolo import open_yolo
        found = open_yolo(Path(source))
    else:
        from .voc import open_voc
        found = open_voc(Path(source))
    for split, pairs in found.splits.items():
        if not pairs:
            raise MMHierError(f'{source}: the {split} split has no image '
                              f'({", ".join(IMAGE_SUFFIXES)})')
        if not any(label.is_file() for _, label in pairs):
            raise MMHierError(
                f'{source}: no image of the {split} split has a label file: '
                f'{pairs[0][0]} would have {pairs[0][1]}')
    return found


def write_splits(source: SourceSet, folder: Path,
                 warn: Callable[[str], None]) -> list[ConvertedSplit]:
    """Check and write the annotations of each split, whole or not at all.

    Args:
        source (SourceSet): Opened by :func:`open_source`.
        folder (Path): Gets annotations/instances_SPLIT2017.json.
        warn (Callable): Called with each warning.

    Returns:
        list[ConvertedSplit]: In the order of the splits.

    Raises:
        MMHierError: If a label or an image cannot be used.
    """
    converted = []
    for split, pairs in source.splits.items():
        path = folder / _ann_file(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        images = Path(
            osp.commonpath([osp.abspath(image.parent) for image, _ in pairs]))
        content = _to_coco(source, split, images, warn)
        with replacing(path) as partial:
            partial.write_text(json.dumps(content), encoding='utf-8')
            # Messages name the temporary file; replace it by the final one.
            try:
                lines = _check(partial, source.classes)
            except MMHierError as error:
                raise MMHierError(str(error).replace(str(partial),
                                                     str(path))) from error
        for line in lines:
            warn(line.replace(str(partial), str(path)))
        converted.append(
            ConvertedSplit(path.absolute(), images, len(content['images']),
                           len(content['annotations']),
                           [image['file_name'] for image in content['images']]))
    return converted


def _check(path: Path, classes: list[str]) -> list[str]:
    """Check a converted file like any COCO json; return warnings."""
    try:
        annotations = read_coco(str(path))['annotations']
        with_masks = any('segmentation' in entry for entry in annotations)
        lines = check_annotations(str(path), with_masks)
        return lines + count_unused_classes(str(path), classes)
    finally:
        read_coco.cache_clear()


def _to_coco(source: SourceSet, split: str, folder: Path,
             warn: Callable[[str], None]) -> dict[str, list]:
    """Content of a COCO json; ids start at 1."""
    images, annotations = [], []
    objects: list[LabeledObject] = []
    unlabeled = []
    for i, (image, label) in enumerate(
            track(source.splits[split], f'Reading {split} labels'), 1):
        width, height = _image_size(image)
        images.append(
            dict(
                id=i,
                file_name=Path(osp.relpath(image, folder)).as_posix(),
                width=width,
                height=height))
        if not label.is_file():
            unlabeled.append(image)
            continue
        for entry in source.read(label, width, height):
            entry.box = np.clip(entry.box, 0, [width, height] * 2)
            entry.polygons = [
                np.clip(p, 0, [width, height]) for p in entry.polygons
            ]
            objects.append(entry)
            annotations.append(_annotation(entry, len(objects), i))
    if unlabeled:
        warn(f'{split}: {len(unlabeled)} of {len(images)} images have no label '
             f'file and are background, such as {unlabeled[0]}')
    boxes_alone = [i for i, entry in enumerate(objects) if not entry.polygons]
    if 0 < len(boxes_alone) < len(objects):
        warn(f'{split}: {len(boxes_alone)} of {len(objects)} objects have a '
             'box and no outline, which is taken for their mask')
        for i in boxes_alone:
            x1, y1, x2, y2 = np.round(objects[i].box, 3).tolist()
            annotations[i]['segmentation'] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return dict(
        images=images,
        annotations=annotations,
        categories=[
            dict(id=i, name=name) for i, name in enumerate(source.classes, 1)
        ])


def _annotation(entry: LabeledObject, number: int,
                image: int) -> dict[str, Any]:
    """COCO's annotation of an object."""
    x1, y1, x2, y2 = np.round(entry.box.astype(float), 3).tolist()
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    annotation = dict(
        id=number,
        image_id=image,
        category_id=entry.label + 1,
        bbox=[x1, y1, width, height],
        area=round(width * height, 3),
        iscrowd=int(entry.is_ignored))
    if entry.polygons:
        annotation['segmentation'] = [
            np.round(p.astype(float), 3).flatten().tolist()
            for p in entry.polygons
        ]
        annotation['area'] = round(sum(map(_area, entry.polygons)), 3)
    return annotation


def _area(polygon: np.ndarray) -> float:
    """Area of a polygon (N, 2)."""
    x, y = polygon.astype(float).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, rotated by its EXIF data."""
    try:
        with Image.open(path) as image:
            height, width = upright_size(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MMHierError(f'image {path} cannot be read: {error}') from error
    return width, height


def list_images(folder: Path) -> list[Path]:
    """Images in a folder and the folders below it, sorted."""
    return sorted(
        path for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _place_images(split: ConvertedSplit, target: Path,
                  copy_images: bool) -> None:
    """Link to the folder of the images, or copy them."""
    if target.is_symlink():
        target.unlink()
    if not copy_images:
        try:
            os.symlink(split.images, target, target_is_directory=True)
        except OSError as error:
            raise MMHierError(f'{target} cannot be made a link '
                              f'({error.strerror}): copy the images with '
                              '--copy-images') from error
        return
    for name in track(split.files, f'Copying to {target.name}'):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replacing(copy) as partial:
            shutil.copyfile(split.images / name, partial)
