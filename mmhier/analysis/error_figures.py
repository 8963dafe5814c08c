"""Figures of an analysis: bars, matrices, error types, sheets of images."""
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmhier.analysis.error_types import ERROR_TYPES, SIZES
from mmhier.files import replacing

Colour = tuple[int, int, int]
_ROWS_PER_COLUMN = 40
_COLOURS = ('#4477aa', '#ccbb44', '#ee6677')


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    FigureCanvasAgg(figure)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100)


def draw_class_bars(values: dict[str, float | None], counts: dict[str, int],
                    measure: str, unit: str, path: Path) -> None:
    """Bars of a measure by class, best first, in columns of up to 40.

    Args:
        values (dict[str, float]): By class, in [0, 1]; None for classes
            without ground truth, which are left out.
        counts (dict[str, int]): Objects or pixels by class.
        measure (str): Name of the values.
        unit (str): Unit of the counts.
        path (Path): Picture to write.
    """
    known = {k: v for k, v in values.items() if v is not None}
    names = sorted(known, key=lambda name: -known[name])
    num_columns = max(1, -(-len(names) // _ROWS_PER_COLUMN))
    num_rows = -(-len(names) // num_columns)
    figure = Figure(
        figsize=(1 + 5.5 * num_columns, (120 + 24 * num_rows) / 100),
        layout='constrained')
    mean = np.mean(list(known.values())) if known else np.nan
    left_out = len(values) - len(names)
    figure.suptitle(
        f'{measure} by class, mean {mean:.3f}\nin brackets the number of '
        f'{unit}' +
        f'; {left_out} classes without ground truth left out' * bool(left_out),
        fontsize=10)
    for i, axes in enumerate(figure.subplots(1, num_columns, squeeze=False)[0]):
        shown = names[i * num_rows:(i + 1) * num_rows]
        heights = [known[name] for name in shown]
        axes.barh(range(len(shown)), heights, color=_COLOURS[0])
        axes.set_yticks(
            range(len(shown)), [f'{name} ({counts[name]})' for name in shown],
            fontsize=8)
        for row, height in enumerate(heights):
            axes.text(
                height + 0.01, row, f'{height:.3f}', va='center', fontsize=8)
        axes.set_xlim(0, 1.14)
        axes.set_ylim(num_rows - 0.4, -0.6)
        axes.spines[['top', 'right']].set_visible(False)
    save_figure(figure, path)


def draw_confusion_matrix(matrix: np.ndarray, row_names: Sequence[str],
                          column_names: Sequence[str], path: Path) -> None:
    """Confusion matrix in percent of its rows.

    Args:
        matrix (np.ndarray): Numbers, rows by true class.
        row_names (Sequence[str]): Of the true classes.
        column_names (Sequence[str]): Of the classes found.
        path (Path): Picture to write.
    """
    totals = np.maximum(matrix.sum(1, keepdims=True), 1)
    percent = 100 * matrix / totals
    num = len(matrix)
    side = max(5., 2.5 + 0.2 * num)
    figure = Figure(figsize=(side, side), layout='constrained')
    axes = figure.subplots()
    axes.imshow(percent, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(num), column_names, rotation=90, fontsize=8)
    axes.set_yticks(range(num), row_names, fontsize=8)
    axes.set_xlabel('prediction')
    axes.set_ylabel('truth')
    axes.set_title('percent of each row, from 0.5 on', fontsize=10)
    edges = np.arange(num) - 0.5
    for draw in (axes.hlines, axes.vlines):
        draw(edges, -0.5, num - 0.5, color='#dddddd', linewidth=0.4)
    # Cells are 0.2 inches at least: room for two digits and a half.
    for i, j in zip(*np.nonzero(percent >= 0.5)):
        axes.text(
            j,
            i,
            f'{percent[i, j]:.0f}',
            ha='center',
            va='center',
            fontsize=6,
            color='white' if percent[i, j] > 50 else 'black')
    save_figure(figure, path)


def draw_errors(counts: dict[str, dict[str, int]], gains: dict[str, float],
                sizes: dict[str, float], path: Path) -> None:
    """Draw AP50 lost and number of errors by type, and AP by size.

    Args:
        counts (dict[str, dict[str, int]]): By type and size.
        gains (dict[str, float]): AP50 lost to each type.
        sizes (dict[str, float]): AP by size; -1 without ground truth.
        path (Path): Picture to write.
    """
    figure = Figure(figsize=(15, 4.5), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    rows = range(len(ERROR_TYPES))
    lost = [100 * gains[kind] for kind in ERROR_TYPES]
    left.barh(rows, lost, color=_COLOURS[0])
    left.set_title('AP50 lost to each type of error, in points')
    left.set_xlim(0, 1.15 * max(*lost, 1))
    for row, value in enumerate(lost):
        left.text(value, row, f' {value:.1f}', va='center')
    so_far = np.zeros(len(ERROR_TYPES))
    for size, colour in zip(SIZES, _COLOURS):
        numbers = [counts[kind][size] for kind in ERROR_TYPES]
        middle.barh(rows, numbers, left=so_far, color=colour, label=size)
        so_far += numbers
    middle.set_title('number of errors, at any score')
    middle.set_xlim(0, 1.2 * max(*so_far, 1))
    for row, value in enumerate(so_far):
        middle.text(value, row, f' {value:.0f}', va='center')
    middle.legend(loc='lower right', bbox_to_anchor=(1, 0.2))
    for axes in (left, middle):
        axes.set_yticks(rows, ERROR_TYPES)
        axes.invert_yaxis()
    heights = [max(sizes[size], 0.) for size in SIZES]
    right.bar(SIZES, heights, color=_COLOURS)
    right.set_ylim(0, 1.05)
    right.set_title('AP by size of the object')
    for column, size in enumerate(SIZES):
        text = 'none' if sizes[size] < 0 else f'{sizes[size]:.3f}'
        right.text(column, heights[column], text, ha='center', va='bottom')
    for axes in (left, middle, right):
        axes.spines[['top', 'right']].set_visible(False)
    save_figure(figure, path)


class Labels:
    """Write labels that do not overlap.

    Args:
        canvas (np.ndarray): Picture (H, W, 3) in RGB, changed in place.
    """
    _font, _size = cv2.FONT_HERSHEY_SIMPLEX, 0.38

    def __init__(self, canvas: np.ndarray) -> None:
        self.canvas = canvas
        self.taken = np.zeros(canvas.shape[:2], bool)

    def write(self, text: str, x: int, y: int, colour: Colour) -> None:
        """Write on a strip whose lower left corner is near (x, y).

        Without room nearby, nothing is written.
        """
        (width, height), _ = cv2.getTextSize(text, self._font, self._size, 1)
        width, height = width + 4, height + 6
        right, bottom = self.canvas.shape[1] - width, self.canvas.shape[0]
        x = int(np.clip(x, 0, max(right, 0)))
        # Above the point, below it, and further up and down.
        for step in (0, 1, -1, 2, -2, 3, -3):
            y1 = int(np.clip(y + step * height, height, bottom))
            strip = np.s_[y1 - height:y1, x:x + width]
            if not self.taken[strip].any():
                self.taken[strip] = True
                self.canvas[strip] = colour
                dark = np.dot(colour, (0.3, 0.59, 0.11)) < 130
                cv2.putText(self.canvas, text, (x + 2, y1 - 4), self._font,
                            self._size, (255, ) * 3 if dark else (0, ) * 3, 1,
                            cv2.LINE_AA)
                return


def draw_outlines(image: np.ndarray, outlines: Sequence[list[np.ndarray]],
                  texts: Sequence[str],
                  colours: Sequence[Colour]) -> np.ndarray:
    """Image with labelled outlines.

    Args:
        image (np.ndarray): (H, W, 3) in RGB.
        outlines (Sequence[list[np.ndarray]]): Per region its polygons, (n, 2)
            corners (x, y) in pixels.
        texts (Sequence[str]): Per region its label; the first have precedence
            if there is no room for all.
        colours (Sequence[tuple[int, int, int]]): Per region, in RGB.

    Returns:
        np.ndarray: A new picture.
    """
    canvas = image.copy()
    outlines = [[np.round(polygon).astype(np.int32) for polygon in polygons]
                for polygons in outlines]
    for polygons, colour in list(zip(outlines, colours))[::-1]:
        cv2.polylines(canvas, polygons, True, colour, 2)
    labels = Labels(canvas)
    for polygons, text, colour in zip(outlines, texts, colours):
        if polygons:
            corners = np.concatenate(polygons).reshape(-1, 2)
            x, y = np.maximum(corners.min(0), 0)
            labels.write(text, x, y, colour)
    return canvas


def draw_classes(image: np.ndarray, labels: np.ndarray, names: Sequence[str],
                 palette: Sequence[Colour]) -> np.ndarray:
    """Image with its pixels coloured and labelled by class.

    Args:
        image (np.ndarray): (H, W, 3) in RGB.
        labels (np.ndarray): (H, W) classes; others than those of ``names``
            are left as they are.
        names (Sequence[str]): Of the classes.
        palette (Sequence[tuple[int, int, int]]): Their colours in RGB.

    Returns:
        np.ndarray: A new picture. Regions below 0.1 % of it have no label.
    """
    canvas = image.copy()
    regions = []
    for label in np.unique(labels):
        if label >= len(names):
            continue
        mask = labels == label
        canvas[mask] = 0.4 * image[mask] + 0.6 * np.array(palette[label])
        # The largest connected part of the class.
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        part = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        regions.append((stats[part, cv2.CC_STAT_AREA], label, stats[part]))
    writer = Labels(canvas)
    for area, label, (left, top, width, height, _) in sorted(
            regions, key=lambda region: -region[0]):
        if area >= 0.001 * labels.size:
            writer.write(names[label], left + width // 2 - 20,
                         top + height // 2 + 6, palette[label])
    return canvas


def draw_sheet(pictures: list[tuple[np.ndarray, str]],
               legend: dict[str, Colour], path: Path) -> None:
    """Pictures in two columns, each with a line above it.

    Args:
        pictures (list[tuple[np.ndarray, str]]): RGB images and captions.
        legend (dict[str, tuple[int, int, int]]): Meaning of the colours; may
            be empty.
        path (Path): Picture to write.
    """
    width = max(image.shape[1] for image, _ in pictures)
    cells = [_captioned(image, caption, width) for image, caption in pictures]
    if len(cells) % 2:
        cells.append(np.full((1, *cells[0].shape[1:]), 255, np.uint8))
    rows = []
    for pair in zip(cells[::2], cells[1::2]):
        height = max(len(cell) for cell in pair)
        rows.append(
            np.hstack([
                cv2.copyMakeBorder(
                    cell,
                    0,
                    height - len(cell),
                    0,
                    0,
                    cv2.BORDER_CONSTANT,
                    value=(255, ) * 3) for cell in pair
            ]))
    head = np.full((28, rows[0].shape[1], 3), 255, np.uint8)
    labels, x = Labels(head), 8
    for text, colour in legend.items():
        labels.write(text, x, 22, colour)
        x += 130
    rows[:0] = [head] * bool(legend)
    with replacing(path) as partial:
        cv2.imwrite(
            str(partial), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def _captioned(image: np.ndarray, caption: str, width: int) -> np.ndarray:
    """Image of a given width on white, below a line of text."""
    image = cv2.copyMakeBorder(
        image,
        28,
        12,
        6,
        width - image.shape[1] + 6,
        cv2.BORDER_CONSTANT,
        value=(255, ) * 3)
    scale = min(
        0.5, 0.5 * width /
        cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])
    cv2.putText(image, caption, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, scale,
                (0, 0, 0), 1, cv2.LINE_AA)
    return image
