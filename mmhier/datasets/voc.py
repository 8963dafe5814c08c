"""Sets in Pascal VOC's format: an XML file of objects per image.

supervision reads the boxes, whose pixels are numbered from 1, the last one
included, as the VOC devkit defines it.
"""
from pathlib import Path
from typing import Any

import numpy as np
from mmhier.errors import MMHierError
from .coco_checks import describe_other_size
from .formats import (
    IMAGE_SUFFIXES,
    SPLITS,
    LabeledObject,
    SourceSet,
    list_images,
)


def open_voc(source: Path) -> SourceSet:
    """List the images and classes.

    Args:
        source (Path): Folder with ImageSets/Main, JPEGImages and Annotations,
            as of the VOC devkit; or with folders train, val (or valid) and
            test of images with their XML files beside them.

    Returns:
        SourceSet: Its classes are those of all XML files, sorted.

    Raises:
        MMHierError: If the folder is laid out in neither way.
    """
    if (source / 'ImageSets' / 'Main').is_dir():
        splits = _devkit_splits(source)
    else:
        splits = {}
        for split in SPLITS:
            folder = source / split
            if split == 'val' and not folder.is_dir():
                folder = source / 'valid'
            if folder.is_dir():
                splits[split] = [(image, image.with_suffix('.xml'))
                                 for image in list_images(folder)]
    if not splits:
        raise MMHierError(
            f'{source} is not laid out as Pascal VOC: expected ImageSets/Main, '
            'JPEGImages and Annotations, or folders train and val of images '
            'with their XML files')
    names = {
        name
        for pairs in splits.values()
        for _, label in pairs if label.is_file() for name in _class_names(label)
    }
    # VOC's own 20 classes are in this order too.
    classes = sorted(names)

    def read(label: Path, width: int, height: int) -> list[LabeledObject]:
        return read_objects(label, width, height, classes)

    return SourceSet(classes, splits, read)


def _devkit_splits(source: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Images by ImageSets/Main/SPLIT.txt; trainval stands in for train."""
    images = {path.stem: path for path in (source / 'JPEGImages').glob('*')}
    splits = {}
    for split in SPLITS:
        listing = source / 'ImageSets' / 'Main' / f'{split}.txt'
        if split == 'train' and not listing.is_file():
            listing = listing.with_name('trainval.txt')
        if not listing.is_file():
            continue
        names = listing.read_text(encoding='utf-8').split()
        missing = [name for name in names if name not in images]
        if missing:
            raise MMHierError(
                f'{listing} lists {missing[0]}, of which JPEGImages has no '
                f'image ({", ".join(IMAGE_SUFFIXES)})')
        splits[split] = [(images[name], source / 'Annotations' / f'{name}.xml')
                         for name in names]
    return splits


def _parse(path: Path) -> Any:
    """Root of an XML file; entities are refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse
    try:
        return parse(path).getroot()
    except (OSError, ParseError, DefusedXmlException) as error:
        raise MMHierError(f'{path} is not readable XML: {error}') from error


def _class_names(path: Path) -> list[str]:
    names = [entry.findtext('name') for entry in _parse(path).iter('object')]
    if None in names:
        raise MMHierError(f'{path}: object {names.index(None) + 1} has no name')
    return names


def read_objects(path: Path, width: int, height: int,
                 classes: list[str]) -> list[LabeledObject]:
    """Objects of an XML file.

    Args:
        path (Path): VOC's annotation.
        width (int): Of the image, in pixels.
        height (int): Of the image, in pixels.
        classes (list[str]): Names in the order of the labels.

    Returns:
        list[LabeledObject]: In the order of the file.

    Raises:
        MMHierError: Names the file.
    """
    from supervision.dataset.formats.pascal_voc import (
        detections_from_xml_obj,
        parse_polygon_points,
    )
    root = _parse(path)
    stated = [
        int(float(root.findtext(f'size/{key}') or 0))
        for key in ('height', 'width')
    ]
    reason = describe_other_size((height, width), stated)
    if all(stated) and reason:
        raise MMHierError(f'the image of {path} {reason}')
    entries = root.findall('object')
    outlines: list[list[np.ndarray]] = []
    found: Any
    try:
        for entry in entries:
            polygons = entry.findall('polygon')
            outlines.append([parse_polygon_points(p) - 1 for p in polygons])
            for polygon in polygons:
                entry.remove(polygon)  # or supervision would draw it
        found, _ = detections_from_xml_obj(root, classes, (width, height))
    except (ValueError, IndexError) as error:
        raise MMHierError(f'{path}: {error}') from error
    return [
        LabeledObject(
            int(label), box, polygons,
            (entry.findtext('difficult')
             or '0').strip() == '1') for label, box, polygons, entry in zip(
                 found.class_id, found.xyxy, outlines, entries)
    ]
