"""Sets in YOLO's format: data.yaml, and a text file of labels per image.

A label is a class and a box, as fractions of the image, or a class and the
outline of the object. supervision parses and validates each line. Outlines stay
polygons, since the masks of a large set would not fit in memory.
"""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mmhier.errors import MMHierError
from .formats import SPLITS, LabeledObject, SourceSet, list_images

# Fractions may lie this far outside of the image; they are clipped.
_TOLERANCE = 0.01


def open_yolo(source: Path) -> SourceSet:
    """Read data.yaml and list the images.

    Args:
        source (Path): data.yaml, or the folder that holds it.

    Returns:
        SourceSet: Label files are not read yet.

    Raises:
        MMHierError: If there is no data.yaml, or it lacks a required key.
    """
    path = _find_yaml(source)
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MMHierError(f'{path} is not readable YAML: {error}') from error
    if not isinstance(content, dict):
        raise MMHierError(f'{path}: expected keys such as names, train and val')
    classes = _class_names(path, content)
    splits = {}
    for split in SPLITS:
        value = content.get(split) or (content.get('valid')
                                       if split == 'val' else None)
        if value:
            entries = value if isinstance(value, list) else [value]
            images = [
                image for entry in entries
                for image in _images_of(path, content, split, entry)
            ]
            splits[split] = [(image, _label_file(image)) for image in images]
    if not splits:
        raise MMHierError(f'{path} names no images: expected train, val or '
                          'test')
    num_keypoints = int(np.prod(content.get('kpt_shape') or 0))

    def read(label: Path, width: int, height: int) -> list[LabeledObject]:
        return read_labels(label, width, height, len(classes), num_keypoints)

    return SourceSet(classes, splits, read)


def _find_yaml(source: Path) -> Path:
    if source.is_file():
        return source
    found = sorted([*source.glob('*.yaml'), *source.glob('*.yml')])
    named = [path for path in found if path.stem == 'data']
    if len(named or found) != 1:
        raise MMHierError(
            f'{source} holds {len(found)} YAML files: expected data.yaml, or '
            'name the file itself')
    return (named or found)[0]


def _class_names(path: Path, content: dict[str, Any]) -> list[str]:
    """Class names of data.yaml in the order of the labels."""
    names = content.get('names')
    if isinstance(names, dict):
        try:
            numbered = {int(key): name for key, name in names.items()}
        except (TypeError, ValueError):
            numbered = {}
        if sorted(numbered) != list(range(len(names))):
            raise MMHierError(f'{path}: names has keys '
                              f'{", ".join(map(str, list(names)[:5]))}: '
                              'expected the labels 0, 1, 2, ...')
        names = [numbered[i] for i in range(len(numbered))]
    if not isinstance(names, list) or not names:
        raise MMHierError(f'{path} has no names: expected a list of classes')
    number = content.get('nc', len(names))
    if number != len(names):
        raise MMHierError(f'{path}: nc={number}, but names has {len(names)} '
                          'classes')
    return [str(name) for name in names]


def _images_of(path: Path, content: dict[str, Any], split: str,
               entry: Any) -> list[Path]:
    """Images of a folder, or of a text file that lists them."""
    entry = str(entry)
    root = path.parent / str(content.get('path') or '')
    # Roboflow writes ../train/images for train/images.
    candidates = [
        root / entry,
        Path(str(content.get('path') or ''), entry),
        path.parent / entry.removeprefix('../')
    ]
    for candidate in candidates:
        if candidate.is_dir():
            return list_images(candidate)
        if candidate.is_file():
            lines = candidate.read_text(encoding='utf-8').splitlines()
            return [candidate.parent / line for line in lines if line.strip()]
    raise MMHierError(f'{path}: {split}: {entry} is neither a folder of images '
                      f'nor a list of them, looked for at {candidates[0]}')


def _label_file(image: Path) -> Path:
    """Label file of an image: labels/ in place of the last images/."""
    text = image.with_suffix('.txt').as_posix()
    return Path(re.sub(r'(^|.*/)images/', r'\1labels/', text, count=1))


def read_labels(path: Path, width: int, height: int, num_classes: int,
                num_keypoints: int) -> list[LabeledObject]:
    """Objects of a label file.

    Args:
        path (Path): Text file of one line per object.
        width (int): Of the image, in pixels.
        height (int): Of the image, in pixels.
        num_classes (int): Labels are 0 to one less.
        num_keypoints (int): Values that follow the box in pose labels.

    Returns:
        list[LabeledObject]: In the order of the lines.

    Raises:
        MMHierError: Names the file and the line.
    """
    objects = []
    for number, line in enumerate(_read_lines(path), 1):
        values = line.split()
        if not values:
            continue
        if num_keypoints and len(values) == 5 + num_keypoints:
            values = values[:5]
        try:
            objects.append(_parse(values, width, height, num_classes))
        except ValueError as error:
            raise MMHierError(f'{path}, line {number}: {error}') from error
    return objects


def _read_lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MMHierError(f'{path} is not readable text: {error}') from error


def _parse(values: list[str], width: int, height: int,
           num_classes: int) -> LabeledObject:
    """Object of a line; raises ValueError."""
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections
    found: Any = yolo_annotations_to_detections([' '.join(values)],
                                                (width, height),
                                                with_masks=False)
    label = int(found.class_id[0])
    if not 0 <= label < num_classes:
        raise ValueError(f'class {label} is none of the {num_classes} names of '
                         'data.yaml')
    relative = found.xyxy[0] / [width, height, width, height]
    if not (np.isfinite(relative).all() and relative.min() >= -_TOLERANCE
            and relative.max() <= 1 + _TOLERANCE):
        raise ValueError(
            f'{" ".join(values[1:5])} reaches out of the image: expected '
            'fractions of its width and height')
    polygons = []
    # Five values are a box, six a box with a score.
    if len(values) > 6:
        numbers = np.array(values[1:], float)
        # A score may follow an outline.
        points = numbers[:len(numbers) // 2 * 2].reshape(-1, 2)
        polygons.append(points * [width, height])
    return LabeledObject(label, found.xyxy[0], polygons)
