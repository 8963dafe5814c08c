"""The generated "shapes" set, for runs that need no download.

One set serves three tasks. Laid out below its root as COCO, ADE20K and
ImageNet are, so that a data root is all that a config has to change::

    shapes.json                                   parameters, content hash
    annotations/instances_{train,val}2017.json    COCO instances
    {train,val}2017/*.jpg
    annotations/{training,validation}/*.png       ADE20K labels, 0 = other
    images/{training,validation}/*.jpg            the pictures above, linked
    classification/{train,val}/{class}/*.jpg      one shape a picture

Every picture is drawn by a random generator seeded with (seed, task, split,
index), so splits share nothing and a larger set starts with a smaller one's
pictures.
"""
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from mmhier.errors import MMHierError
from .masks import mask_to_polygons, mask_to_rle

# In alphabetical order, which is how class folders are numbered.
SHAPE_CLASSES = ('circle', 'cross', 'ring', 'square', 'star', 'triangle')

_MANIFEST = 'shapes.json'
# Part of the parameters: sets drawn by an older version are not reused.
_VERSION = 1
_SPLITS = ('train', 'val')
_ADE_SPLITS = dict(train='training', val='validation')

_MIN_SHAPE = 12
_MIN_VISIBLE_SHARE = 0.5
_MIN_VISIBLE_PIXELS = 25
_SUPERSAMPLING = 4


def generate_shapes(out_dir: str | Path,
                    num_train: int = 800,
                    num_val: int = 160,
                    image_size: int = 192,
                    seed: int = 0) -> bool:
    """Draw the shapes set below ``out_dir``, or find it there.

    Textured shapes of six classes lie on darker, textured backgrounds; they
    are 12 pixels to half the picture long, turned, squeezed, partly hidden by
    each other or cut by the border, and their colour says nothing of their
    class.
    In each split, picture ``i`` is empty when ``i % 16 == 15`` and has a crowd
    (many tiny shapes of one class under one ``iscrowd`` annotation) when
    ``i % 8 == 3``.

    The set is written to a temporary directory beside ``out_dir`` and then
    renamed, so an interrupted run leaves nothing that looks complete.

    Args:
        out_dir (str | Path): Root of the set. May be missing, empty, or hold
            the same set already.
        num_train (int): Number of training pictures, for detection and
            segmentation together and again for classification.
            Defaults to 800.
        num_val (int): The same for validation. Defaults to 160.
        image_size (int): Height and width of a picture in pixels, at least
            64. Classification pictures have half of it. Defaults to 192.
        seed (int): A non-negative seed. Defaults to 0.

    Returns:
        bool: True when the set was drawn, False when a complete set with the
        same parameters was found.

    Raises:
        ValueError: If an argument is out of range.
        FileExistsError: If ``out_dir`` holds anything else than this set.
    """
    for name, value, lowest in (('num_train', num_train, 1), ('num_val',
                                                              num_val, 1),
                                ('image_size', image_size, 64), ('seed', seed,
                                                                 0)):
        if value < lowest:
            raise MMHierError(f'{name} is {value}, expected an integer of at '
                              f'least {lowest}.')
    parameters = dict(
        version=_VERSION,
        classes=list(SHAPE_CLASSES),
        num_train=num_train,
        num_val=num_val,
        image_size=image_size,
        seed=seed)

    out_dir = Path(out_dir)
    if out_dir.exists() and not (out_dir.is_dir()
                                 and not any(out_dir.iterdir())):
        _check_same_set(out_dir, parameters)
        return False

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix=f'.{out_dir.name}-', dir=out_dir.parent) as scratch:
        root = Path(scratch) / 'shapes'
        for split, num_images in zip(_SPLITS, (num_train, num_val)):
            first_id = 1 if split == 'train' else num_train + 1
            _write_scenes(root, split, num_images, first_id, image_size, seed)
            _write_class_folders(root, split, num_images, image_size // 2, seed)
        manifest = dict(parameters=parameters, sha256=content_hash(root))
        (root / _MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        root.rename(out_dir)
    return True


def content_hash(root: str | Path) -> str:
    """Hash names and bytes of all files of a shapes set but its manifest.

    Args:
        root (str | Path): Root of the set.

    Returns:
        str: The SHA-256 digest in hexadecimal.
    """
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        name = path.relative_to(root).as_posix()
        if name != _MANIFEST:
            digest.update(name.encode() + b'\0')
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _check_same_set(out_dir: Path, parameters: dict) -> None:
    advice = 'Delete it or choose another directory.'
    manifest_path = out_dir / _MANIFEST
    if not manifest_path.is_file():
        raise FileExistsError(
            f'{out_dir} exists and is not a shapes set (it has no '
            f'{_MANIFEST}). {advice}')
    try:
        manifest = json.loads(manifest_path.read_text())
        found, sha256 = manifest['parameters'], manifest['sha256']
        differing = sorted(key for key in found.keys() | parameters.keys()
                           if found.get(key) != parameters.get(key))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FileExistsError(f'{manifest_path} is not the manifest of a '
                              f'shapes set. {advice}') from None
    if differing:
        details = ', '.join(
            f'{key} {found.get(key)} instead of {parameters.get(key)}'
            for key in differing)
        raise FileExistsError(
            f'{out_dir} holds another shapes set: {details}. {advice}')
    if content_hash(out_dir) != sha256:
        raise FileExistsError(
            f'{out_dir} holds a shapes set that was changed after it was '
            f'drawn: its files do not match the hash in {_MANIFEST}. '
            f'{advice}')


def _write_scenes(root: Path, split: str, num_images: int, first_id: int,
                  image_size: int, seed: int) -> None:
    photo_dir = root / f'{split}2017'
    linked_dir = root / 'images' / _ADE_SPLITS[split]
    label_dir = root / 'annotations' / _ADE_SPLITS[split]
    for directory in (photo_dir, linked_dir, label_dir):
        directory.mkdir(parents=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        rng = np.random.default_rng([seed, 0, _SPLITS.index(split), index])
        scene = _Scene(rng, image_size)
        if index % 16 != 15:
            if index % 8 == 3:
                scene.add_crowd()
            scene.add_shapes(int(rng.integers(2, 9)))

        image_id = first_id + index
        name = f'{image_id:012d}'
        _write_image(photo_dir / f'{name}.jpg', scene.image)
        _link(photo_dir / f'{name}.jpg', linked_dir / f'{name}.jpg')
        _write_image(label_dir / f'{name}.png', scene.semantic_map())
        images.append(
            dict(
                id=image_id,
                file_name=f'{name}.jpg',
                height=image_size,
                width=image_size))
        for annotation in scene.annotations():
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image_id, **annotation))

    categories = [
        dict(id=number, name=name, supercategory='shape')
        for number, name in enumerate(SHAPE_CLASSES, 1)
    ]
    (root / 'annotations' / f'instances_{split}2017.json').write_text(
        json.dumps(
            dict(
                info=dict(description='mmhier shapes, a generated set'),
                licenses=[],
                images=images,
                annotations=annotations,
                categories=categories),
            separators=(',', ':')))


def _write_class_folders(root: Path, split: str, num_images: int,
                         image_size: int, seed: int) -> None:
    for index in range(num_images):
        rng = np.random.default_rng([seed, 1, _SPLITS.index(split), index])
        label = index % len(SHAPE_CLASSES)
        scene = _Scene(rng, image_size)
        while not scene.labels:
            scene.add_shape(label, rng.uniform(0.35, 0.9) * image_size)
        directory = root / 'classification' / split / SHAPE_CLASSES[label]
        directory.mkdir(parents=True, exist_ok=True)
        _write_image(directory / f'{index:06d}.jpg', scene.image)


def _write_image(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f'Could not write {path}.')


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Not every file system has hard links.
        shutil.copyfile(source, target)


class _Scene:
    """A picture being drawn, back to front, with the owner of every pixel."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.pixels = _texture(rng, size, rng.uniform(10, 110, 3))
        self.owner = np.zeros((size, size), np.int32)
        # Instance k owns the pixels with owner k + 1.
        self.labels: list[int] = []
        self.is_crowd: list[bool] = []
        self.full_areas: list[int] = []

    @property
    def image(self) -> np.ndarray:
        return self.pixels.round().clip(0, 255).astype(np.uint8)

    def add_shapes(self, number: int) -> None:
        for _ in range(number):
            label = int(self.rng.integers(len(SHAPE_CLASSES)))
            length = self.rng.uniform(_MIN_SHAPE, self.size / 2)
            for _ in range(20):
                if self.add_shape(label, length):
                    break

    def add_shape(self, label: int, length: float) -> bool:
        """Put a shape somewhere unless it or another would hardly be seen."""
        rng = self.rng
        opacity = _shape_opacity(rng, SHAPE_CLASSES[label], length)
        centre = rng.uniform(0, self.size, 2)
        if self.labels and rng.random() < 0.3:
            # Occlusion would be rare if all places were equally likely.
            centre = self._point_near_a_shape(length)
        inside, patch = self._overlap(len(opacity), centre)
        mask = opacity[patch] >= 0.5
        full_area = int((opacity >= 0.5).sum())
        if not self._stays_visible(mask.sum(), full_area):
            return False
        below = self.owner[inside]
        for k, area in enumerate(self.full_areas):
            left = (self.owner == k + 1).sum() - (mask & (below == k + 1)).sum()
            if not self._stays_visible(left, area):
                return False

        self._paint(inside, opacity[patch])
        self.labels.append(int(label))
        self.is_crowd.append(False)
        self.full_areas.append(full_area)
        below[mask] = len(self.labels)
        return True

    def add_crowd(self) -> None:
        """Scatter tiny shapes of one class and count them as one instance."""
        rng = self.rng
        label = int(rng.integers(len(SHAPE_CLASSES)))
        middle = rng.uniform(0.2, 0.8, 2) * self.size
        spread = 0.12 * self.size
        self.labels.append(label)
        self.is_crowd.append(True)
        for _ in range(rng.integers(10, 17)):
            opacity = _shape_opacity(rng, SHAPE_CLASSES[label],
                                     rng.uniform(7, 11))
            inside, patch = self._overlap(
                len(opacity), middle + rng.uniform(-spread, spread, 2))
            self._paint(inside, opacity[patch])
            self.owner[inside][opacity[patch] >= 0.5] = len(self.labels)
        self.full_areas.append(int((self.owner == len(self.labels)).sum()))

    def semantic_map(self) -> np.ndarray:
        """Class number of every pixel, 0 where no shape is."""
        numbers = np.array([0] + [label + 1 for label in self.labels])
        return numbers[self.owner].astype(np.uint8)

    def annotations(self) -> list[dict]:
        """COCO annotations of what is visible, without ids."""
        annotations = []
        for k, (label, crowd) in enumerate(zip(self.labels, self.is_crowd)):
            mask = self.owner == k + 1
            encoded = mask_utils.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                dict(
                    category_id=label + 1,
                    iscrowd=int(crowd),
                    area=int(mask_utils.area(encoded)),
                    bbox=mask_utils.toBbox(encoded).tolist(),
                    segmentation=mask_to_rle(mask)
                    if crowd else mask_to_polygons(mask)))
        return annotations

    def _point_near_a_shape(self, length: float) -> np.ndarray:
        k = self.rng.integers(len(self.labels))
        rows, columns = np.nonzero(self.owner == k + 1)
        reach = 0.5 * (length + np.ptp(columns))
        angle = self.rng.uniform(0, 2 * np.pi)
        return np.array([columns.mean(), rows.mean()]) + (
            self.rng.uniform(0.5, 1) * reach *
            np.array([np.cos(angle), np.sin(angle)]))

    def _overlap(self, side: int, centre: np.ndarray) -> tuple:
        """Where picture and a centred square patch meet, as slices of both."""
        left, top = np.round(centre - side / 2).astype(int)
        inside, patch = [], []
        for start in (top, left):
            low, high = np.clip([start, start + side], 0, self.size)
            inside.append(slice(low, high))
            patch.append(slice(low - start, high - start))
        return tuple(inside), tuple(patch)

    @staticmethod
    def _stays_visible(visible: int, full_area: int) -> bool:
        return visible >= max(_MIN_VISIBLE_SHARE * full_area,
                              _MIN_VISIBLE_PIXELS)

    def _paint(self, inside: tuple, opacity: np.ndarray) -> None:
        below = self.pixels[inside]
        if not below.size:
            return
        colour = _light_colour(self.rng, below.mean((0, 1)))
        texture = _texture(self.rng, max(opacity.shape), colour)
        texture = texture[:opacity.shape[0], :opacity.shape[1]]
        below += opacity[..., None] * (texture - below)


def _light_colour(rng: np.random.Generator, below: np.ndarray) -> np.ndarray:
    """Colour of a shape that stands out from the mean of what is below."""
    # Without a common sign of contrast, a network needs several times the
    # training of a demo to tell figure from ground.
    while True:
        colour = rng.uniform(40, 250, 3)
        if colour.mean() > 140 and np.linalg.norm(colour - below) > 80:
            return colour


def _texture(rng: np.random.Generator, size: int,
             colour: np.ndarray) -> np.ndarray:
    """A (size, size, 3) patch that varies about a colour in one of six ways.
    """
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    period = rng.uniform(5, 24)
    kind = rng.integers(6)
    pattern: np.ndarray
    if kind == 0:
        pattern = np.zeros((size, size), np.float32)
    elif kind == 1:
        pattern = (along - along.min()) / max(np.ptp(along), 1) - 0.5
    elif kind == 2:
        pattern = 0.5 * np.sin(2 * np.pi * along / period)
    elif kind == 3:
        pattern = (along // period + across // period) % 2 - 0.5
    elif kind == 4:
        cells = int(size / period) + 2
        coarse = rng.uniform(-0.8, 0.8, (cells, cells)).astype(np.float32)
        pattern = cv2.resize(
            coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    else:
        pattern = (rng.random((size, size), np.float32) < 0.15) - 0.15
    change = rng.normal(size=3)
    change *= rng.uniform(20, 70) / np.linalg.norm(change)
    texture = rng.standard_normal((size, size, 3), np.float32)
    texture *= rng.uniform(2, 8)
    texture += colour
    texture += pattern[..., None] * change
    return texture


def _shape_opacity(rng: np.random.Generator, name: str,
                   length: float) -> np.ndarray:
    """A square patch with a turned and squeezed shape of this length.

    Values are the shares of the pixels that the shape covers, float32 in
    [0, 1]; the longer side of the shape's box is ``length`` pixels.
    """
    contours = _shape_contours(rng, name)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)],
                     [np.sin(angle), np.cos(angle)]])
    squeeze = np.array([rng.uniform(0.8, 1), 1])
    contours = [contour * squeeze @ turn.T for contour in contours]
    low = contours[0].min(0)
    high = contours[0].max(0)
    scale = length / (high - low).max()

    side = int(np.ceil(length)) + 2
    shift = 4
    canvas = np.zeros((side * _SUPERSAMPLING, ) * 2, np.float32)
    points = [(((contour -
                 (low + high) / 2) * scale + side / 2) * _SUPERSAMPLING - 0.5) *
              2**shift for contour in contours]
    # One call for all contours: the inner one of a ring is left out.
    cv2.fillPoly(
        canvas, [point.round().astype(np.int32) for point in points],
        1.0,
        shift=shift)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)


def _shape_contours(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Outer and, for a ring, inner contour of a shape about the origin."""
    if name in ('circle', 'ring'):
        outer = _regular_polygon(64)
        if name == 'circle':
            return [outer]
        return [outer, outer * rng.uniform(0.45, 0.65)]
    if name == 'square':
        return [_regular_polygon(4)]
    if name == 'triangle':
        return [_regular_polygon(3)]
    if name == 'star':
        corners = _regular_polygon(10)
        corners[1::2] *= rng.uniform(0.38, 0.46)
        return [corners]
    arm = rng.uniform(0.26, 0.34)
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return [
        np.concatenate(
            [quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    ]


def _regular_polygon(num_corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(num_corners) / num_corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)
