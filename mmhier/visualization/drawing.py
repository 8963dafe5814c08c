"""Drawing of maps, points and titles on pictures.

Pictures are (H, W, 3) uint8, RGB.
"""
from collections.abc import Sequence

import cv2
import numpy as np

WHITE = (255, 255, 255)
GAP = 6


def upscale_cells(values: np.ndarray, cell: int, height: int,
                  width: int) -> np.ndarray:
    """Fill cells of a grid with their values.

    Args:
        values (np.ndarray): (rows, columns) or (rows, columns, C).
        cell (int): Side of a cell in pixels.
        height (int): Height of the result; cells are cropped to it.
        width (int): Width of the result.

    Returns:
        np.ndarray: (height, width) or (height, width, C).
    """
    return values.repeat(cell, 0).repeat(cell, 1)[:height, :width]


def colour_map(values: np.ndarray) -> np.ndarray:
    """Map values to colours from black over red to yellow.

    Args:
        values (np.ndarray): (H, W), from 0 to 1.

    Returns:
        np.ndarray: (H, W, 3), uint8, RGB.
    """
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(colours[..., ::-1])


def overlay_heat(picture: np.ndarray,
                 heat: np.ndarray,
                 opacity: float = 0.6) -> np.ndarray:
    """Lay a heat map over a darkened gray picture; 0 leaves it visible.

    Args:
        picture (np.ndarray): (H, W, 3).
        heat (np.ndarray): (H, W), not negative; its maximum is the brightest.
        opacity (float): Of the colours. Defaults to 0.6.

    Returns:
        np.ndarray: (H, W, 3), uint8, RGB.
    """
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] * 0.6
    scaled = heat / max(float(heat.max()), 1e-12)
    colours = colour_map(scaled)
    alpha = opacity * (heat > 0)[..., None]
    mixed = gray * (1 - alpha) + colours * alpha
    return np.rint(mixed).astype(np.uint8)


def mark_point(picture: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """Draw a ringed cross.

    Args:
        picture (np.ndarray): (H, W, 3), left as it is.
        point (tuple[float, float]): x and y in pixels.

    Returns:
        np.ndarray: The picture with the cross.
    """
    picture = picture.copy()
    radius = max(4, round(min(picture.shape[:2]) / 50))
    at = (round(point[0]), round(point[1]))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        cv2.circle(picture, at, radius, colour, thickness, cv2.LINE_AA)
    cv2.drawMarker(picture, at, (255, 0, 0), cv2.MARKER_CROSS, radius, 1)
    return picture


def draw_scale_bar(picture: np.ndarray, length: int) -> np.ndarray:
    """Draw a bar, and its length, at the lower left.

    Args:
        picture (np.ndarray): (H, W, 3), left as it is.
        length (int): Of the bar in pixels.

    Returns:
        np.ndarray: The picture with the bar.
    """
    picture = picture.copy()
    height = picture.shape[0]
    left, bottom = 8, height - 10
    cv2.rectangle(picture, (left, bottom - 4), (left + length - 1, bottom),
                  WHITE, -1)
    cv2.putText(picture, f'{length} px', (left, bottom - 9),
                cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1, cv2.LINE_AA)
    return picture


def add_title(picture: np.ndarray, *lines: str) -> np.ndarray:
    """Add lines of black text on white above a picture.

    Args:
        picture (np.ndarray): (H, W, 3).
        *lines (str): Shrunk to the width of the picture.

    Returns:
        np.ndarray: Text and picture, higher than the picture.
    """
    height = 20
    strip = np.full((height * len(lines) + 4, picture.shape[1], 3), 255,
                    np.uint8)
    for i, text in enumerate(lines):
        size = 0.45
        width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0]
        size *= min(1., (picture.shape[1] - 8) / max(width, 1))
        cv2.putText(strip, text, (4, height * (i + 1) - 4),
                    cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate((strip, picture))


def arrange(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Join rows of pictures into one.

    Args:
        rows (Sequence[Sequence[np.ndarray]]): (H, W, 3) pictures of any
            sizes, to be aligned top left.

    Returns:
        np.ndarray: The sheet, on white.
    """
    columns = max(len(row) for row in rows)
    heights = [max(p.shape[0] for p in row) for row in rows]
    widths = [
        max(row[i].shape[1] for row in rows if i < len(row))
        for i in range(columns)
    ]
    sheet = np.full((sum(heights) + GAP * (len(rows) - 1), sum(widths) + GAP *
                     (columns - 1), 3), 255, np.uint8)
    top = 0
    for row, height in zip(rows, heights):
        left = 0
        for picture, width in zip(row, widths):
            sheet[top:top + picture.shape[0],
                  left:left + picture.shape[1]] = picture
            left += width + GAP
        top += height + GAP
    return sheet
