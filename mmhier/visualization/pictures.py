"""Pictures of what models attend to, sample, see and compute.

Every function draws the models that it is given side by side and returns a
picture, (H, W, 3) uint8 RGB.
Photos are resized so that their shorter side has `size` pixels, both sides
rounded to multiples of 32.
"""
import logging
import os.path as osp
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from mmhier import visualization as vis
from mmhier.apis.inference import (
    UnreadableImage,
    list_images,
    read_image,
)
from mmhier.apis.predictor import check_device, load_model_config, load_weights
from mmhier.checkpoints.initializer import init_weights
from mmhier.engine.build import build_model
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError
from mmhier.files import shown

MULTIPLE = 32
# Tokens along the longer side whose sampling points are drawn.
MAX_TOKENS = 28
# Decades of an effective receptive field that are drawn.
DECADES = 4
TAP_COLOURS = ((255, 80, 80), (80, 200, 255), (255, 210, 60), (130, 255, 130))


@dataclass
class Subject:
    """A model to be drawn.

    Attributes:
        name (str): For titles.
        model (nn.Module): In eval mode.
    """
    name: str
    model: nn.Module

    @classmethod
    def load(cls, config: str, checkpoint: str | None, device: str,
             classes: str | Sequence[str] | None,
             cfg_options: dict[str, Any] | None) -> 'Subject':
        """Model of a config; without checkpoint as training would start."""
        cfg = load_model_config(config, classes, cfg_options)
        name = osp.splitext(osp.basename(config))[0]
        with naming_config_errors(cfg):
            model = build_model(cfg)
            if checkpoint is None:
                # It logs every parameter.
                logging.disable(logging.INFO)
                try:
                    init_weights(model)
                finally:
                    logging.disable(logging.NOTSET)
                name += ' (initial weights)'
            else:
                load_weights(model, checkpoint)
        return cls(name, model.to(device).eval())

    def normalize(self, picture: np.ndarray) -> Tensor:
        """Picture -> (1, 3, H, W), as the model's backbone gets it."""
        bgr = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))
        data = dict(inputs=[torch.from_numpy(bgr)], data_samples=None)
        return self.model.data_preprocessor(data, False)['inputs']


def load_subjects(configs: Sequence[str],
                  checkpoints: Sequence[str] | None = None,
                  device: str | None = None,
                  classes: str | Sequence[str] | None = None,
                  cfg_options: dict[str, Any] | None = None) -> list[Subject]:
    """Models that will be drawn.

    Args:
        configs (Sequence[str]): Config files or names of models.
        checkpoints (Sequence[str], optional): One for each config. Defaults
            to None: weights as training would start with.
        device (str, optional): Defaults to None, a GPU if there is one.
        classes (str | Sequence[str], optional): Of every config; see
            :func:`mmhier.apis.load_config`.
        cfg_options (dict, optional): Values of every config by dotted key.

    Raises:
        MMHierError: If a config or checkpoint cannot be used.
    """
    if checkpoints and len(checkpoints) != len(configs):
        raise MMHierError(f'{len(configs)} configs, but {len(checkpoints)} '
                          'checkpoints: expected one for each config')
    device = check_device(device)
    files: Sequence[str | None] = checkpoints or [None] * len(configs)
    return [
        Subject.load(config, checkpoint, device, classes, cfg_options)
        for config, checkpoint in zip(configs, files)
    ]


def load_photo(path: str, size: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Photo of a file, resized.

    Args:
        path (str): Image file.
        size (int): Shorter side in pixels.

    Returns:
        tuple: Picture, and the scale (x, y) by which it was resized.

    Raises:
        MMHierError: If it is no image.
    """
    if size < MULTIPLE:
        raise MMHierError(f'--size {size}: expected at least {MULTIPLE}')
    try:
        image = read_image(path)
    except UnreadableImage as error:
        raise MMHierError(f'{shown(path)} {error}') from error
    height, width = image.shape[:2]
    scale = size / min(height, width)
    sides = [
        max(MULTIPLE,
            round(side * scale / MULTIPLE) * MULTIPLE)
        for side in (width, height)
    ]
    if max(sides) > 20 * size:
        raise MMHierError(
            f'{shown(path)} has {width}x{height} pixels: too long '
            'and narrow to be drawn')
    resized = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    picture = np.ascontiguousarray(resized[..., ::-1])
    return picture, (sides[0] / width, sides[1] / height)


def draw_attention(subjects: Sequence[Subject],
                   image: str,
                   point: tuple[float, float] | None = None,
                   stage: int = 4,
                   block: int = -1,
                   head: int | str = 'mean',
                   size: int = 448) -> np.ndarray:
    """What one token attends to, over the photo.

    Args:
        subjects (Sequence[Subject]): Models with backbones of mmhier.
        image (str): Image file.
        point (tuple[float, float], optional): Pixel (x, y) of the photo as it
            is stored. Defaults to None, its centre.
        stage (int): See :func:`mmhier.visualization.attention_maps`.
        block (int): As stage.
        head (int | str): Number of a head, 'mean' over the heads, or 'all',
            side by side for each attention. Defaults to 'mean'.
        size (int): Shorter side of the photo. Defaults to 448.

    Raises:
        MMHierError: If an argument does not fit.
    """
    photo, scale = load_photo(image, size)
    height, width = photo.shape[:2]
    if point is None:
        point = (width / 2, height / 2)
    else:
        point = (point[0] * scale[0], point[1] * scale[1])
    columns = []
    for subject in subjects:
        maps = vis.attention_maps(
            _backbone(subject), subject.normalize(photo), point, stage, block)
        first = [
            vis.add_title(
                vis.mark_point(photo, point), subject.name,
                f'stage {stage}, block {block}')
        ]
        panels = [[
            _attention_panel(photo, point, attention, number)
            for number in _heads(head, len(attention.probs))
        ] for attention in maps]
        columns.append(vis.arrange([first, *panels]))
    return vis.arrange([columns])


def _heads(head: int | str, num_heads: int) -> Iterable[Any]:
    if head == 'mean':
        return [head]
    if head == 'all':
        return range(num_heads)
    if not 0 <= int(head) < num_heads:
        raise MMHierError(f'--head {head}: this block has heads 0 to '
                          f'{num_heads - 1}')
    return [int(head)]


def _attention_panel(photo: np.ndarray, point: tuple[float, float],
                     attention: vis.AttentionMap,
                     head: int | str) -> np.ndarray:
    probs = attention.probs.mean(0) if head == 'mean' else (
        attention.probs[head])
    heat = vis.upscale_cells(probs.numpy(), attention.cell, *photo.shape[:2])
    panel = vis.mark_point(vis.overlay_heat(photo, heat), point)
    which = 'mean of heads' if head == 'mean' else f'head {head}'
    return vis.add_title(panel, f'{attention.name}, {which}',
                         f'brightest: {probs.max():.3g}')


def draw_offsets(subjects: Sequence[Subject],
                 image: str,
                 point: tuple[float, float] | None = None,
                 size: int = 448) -> np.ndarray:
    """Where LIT's or LITv2's mergings sample, and all that a token gathers.

    Each panel shows one merging: lines lead from the regular positions to the
    points that are sampled, one colour for each tap. The last one follows a
    token of the last merging back through all of them.

    Args:
        subjects (Sequence[Subject]): Models with a LIT or LITv2.
        image (str): Image file.
        point (tuple[float, float], optional): Pixel (x, y) of the photo whose
            token is followed. Defaults to None, the centre.
        size (int): Shorter side of the photo. Defaults to 448.

    Raises:
        MMHierError: If an argument does not fit.
    """
    photo, scale = load_photo(image, size)
    height, width = photo.shape[:2]
    point = (width / 2, height / 2) if point is None else (point[0] * scale[0],
                                                           point[1] * scale[1])
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise MMHierError('--point lies outside of the image')
    columns = []
    for subject in subjects:
        levels = vis.sampling_points(
            _backbone(subject), subject.normalize(photo))
        panels = [
            vis.add_title(
                _offsets_panel(photo, points.numpy(), level), subject.name,
                f'merging {level + 1}: stride {4 * 2 ** level} to '
                f'{8 * 2 ** level}') for level, points in enumerate(levels)
        ]
        followed = _followed_panel(photo, [p.numpy() for p in levels], point)
        panels.append(
            vis.add_title(followed, subject.name,
                          'close-up of one token, last merging largest'))
        columns.append(vis.arrange([[panel] for panel in panels]))
    return vis.arrange([columns])


def _offsets_panel(photo: np.ndarray, points: np.ndarray,
                   level: int) -> np.ndarray:
    picture = (photo * 0.7).astype(np.uint8)
    rows, columns = points.shape[:2]
    step = -(-max(rows, columns) // MAX_TOKENS)
    stride = 4 * 2**level
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            for tap, colour in enumerate(TAP_COLOURS):
                regular = np.array([2 * column + tap % 2, 2 * row + tap // 2])
                regular = (regular + 0.5) * stride - 0.5
                _draw_arrow(picture, regular, points[row, column, tap], colour)
    return picture


def _draw_arrow(picture: np.ndarray, start: np.ndarray, end: np.ndarray,
                colour: tuple[int, int, int]) -> None:
    # OpenCV takes whole numbers, here of sixteenths of a pixel.
    first, last = (
        tuple(np.rint(16 * p).astype(int).tolist()) for p in (start, end))
    cv2.line(picture, first, last, colour, 1, cv2.LINE_AA, 4)
    cv2.circle(picture, last, 24, colour, -1, cv2.LINE_AA, 4)


def _followed_panel(photo: np.ndarray, levels: list[np.ndarray],
                    point: tuple[float, float]) -> np.ndarray:
    """Close-up of what a token gathers; large dots are the last merging's."""
    positions = [point]
    steps = []
    for level in reversed(range(len(levels))):
        points, cell = levels[level], 8 * 2**level
        rows, columns = points.shape[:2]
        found = []
        for x, y in positions:
            row, column = int(y // cell), int(x // cell)
            # A point beyond the border reads zeros, and leads no further.
            if 0 <= row < rows and 0 <= column < columns:
                found += points[row, column].tolist()
        steps.append(found)
        positions = found
    corners = np.array([p for step in steps for p in step] + [point])
    side = max(96, int(1.2 * np.ptp(corners, axis=0).max()))
    left, top = (np.mean([corners.min(0), corners.max(0)], 0) -
                 side / 2).round().astype(int)
    zoom = min(photo.shape[:2]) / side
    picture = cv2.warpAffine((photo * 0.6).astype(np.uint8),
                             np.array([[zoom, 0, -zoom * left],
                                       [0, zoom, -zoom * top]]),
                             (min(photo.shape[:2]), ) * 2)
    for index in reversed(range(len(steps))):
        radius = 9 - 3 * index
        for x, y in steps[index]:
            at = (round(zoom * (x - left)), round(zoom * (y - top)))
            cv2.circle(picture, at, radius, TAP_COLOURS[index], -1, cv2.LINE_AA)
    return vis.mark_point(picture,
                          (zoom * (point[0] - left), zoom * (point[1] - top)))


def draw_receptive_field(subjects: Sequence[Subject],
                         images: str,
                         size: int = 448,
                         max_images: int = 8) -> np.ndarray:
    """Effective receptive field of each output, on a logarithmic scale.

    The squares hold a half and 95 % of the gradient.

    Args:
        subjects (Sequence[Subject]): Models of any backbone.
        images (str): Image, folder or glob pattern to average over; squares
            are cut from their centre.
        size (int): Side of the squares in pixels. Defaults to 448.
        max_images (int): Images to average over. Defaults to 8.

    Raises:
        MMHierError: If an argument does not fit.
    """
    photos = [
        _central_square(load_photo(path, size)[0])
        for path in list_images(images)[:max_images]
    ]
    columns = []
    for subject in subjects:
        backbone = _backbone(subject)
        batches = [subject.normalize(photo) for photo in photos]
        panels = []
        with torch.no_grad():
            outputs = [maps.shape for maps in backbone(batches[0])]
        for index, shape in enumerate(outputs):
            field = vis.effective_receptive_field(backbone, batches, index)
            panels.append([
                _field_panel(field, subject.name, index,
                             round(photos[0].shape[0] / shape[2]))
            ])
        columns.append(vis.arrange(panels))
    return vis.arrange([columns])


def _central_square(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(picture[top:top + side, left:left + side])


def _field_panel(field: Tensor, name: str, index: int,
                 stride: int) -> np.ndarray:
    logarithm = np.log10(np.maximum(field.numpy(), 10.**-DECADES))
    picture = vis.colour_map(1 + logarithm / DECADES)
    shares = []
    for share, colour in ((0.5, (80, 255, 80)), (0.95, (80, 200, 255))):
        row, column, side = vis.field_square(field, share)
        first = (column - side // 2, row - side // 2)
        last = (column + side // 2, row + side // 2)
        cv2.rectangle(picture, first, last, colour, 1)
        shares.append(f'{100 * share:.0f} % in {side} px')
    picture = vis.draw_scale_bar(picture, field.shape[0] // 4)
    return vis.add_title(
        picture, name, f'output {index}, stride {stride}, 10^-{DECADES} to 1',
        ', '.join(shares))


def draw_features(subjects: Sequence[Subject],
                  image: str,
                  source: str = 'backbone',
                  size: int = 448) -> np.ndarray:
    """Feature maps of every level: mean magnitude and main directions.

    Args:
        subjects (Sequence[Subject]): Models of any backbone.
        image (str): Image file.
        source (str): 'backbone', or 'neck' for what it makes of them.
            Defaults to 'backbone'.
        size (int): Shorter side of the photo. Defaults to 448.

    Raises:
        MMHierError: If an argument does not fit.
    """
    photo, _ = load_photo(image, size)
    columns = []
    for subject in subjects:
        with torch.no_grad():
            maps = _backbone(subject)(subject.normalize(photo))
            if source == 'neck':
                neck = getattr(subject.model, 'neck', None)
                if neck is None:
                    raise MMHierError(f'{subject.name} has no neck')
                maps = neck(maps)
        if any(m.ndim != 4 for m in maps):
            raise MMHierError(
                f'the {source} of {subject.name} returns vectors, '
                'not maps')
        rows = [[vis.add_title(photo, subject.name, source)]]
        for level, features in enumerate(m[0].cpu() for m in maps):
            size_text = 'x'.join(map(str, features.shape))
            mean = vis.colour_map(vis.mean_map(features).numpy())
            pca = np.rint(255 * vis.pca_map(features).numpy()).astype(np.uint8)
            rows.append([
                vis.add_title(
                    _fit(picture, photo), f'level {level}: {size_text}', what)
                for picture, what in ((mean, 'mean magnitude'),
                                      (pca, 'principal components'))
            ])
        columns.append(vis.arrange(rows))
    return vis.arrange([columns])


def _fit(picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
    return cv2.resize(
        picture, (photo.shape[1], photo.shape[0]),
        interpolation=cv2.INTER_NEAREST)


def _backbone(subject: Subject) -> nn.Module:
    backbone = getattr(subject.model, 'backbone', None)
    if backbone is None:
        raise MMHierError(f'{subject.name} has no backbone')
    return backbone
