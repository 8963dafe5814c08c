"""Ground truth beside predictions of a detector, as pictures."""
import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

NUM_PICTURES = 24
NUM_ON_SHEET = 8
SCORE_THRESHOLD = 0.5
# BGR, one a class.
COLOURS = ((60, 160, 255), (80, 200, 80), (255, 150, 60), (220, 90, 220),
           (60, 220, 240), (90, 90, 240))


def draw_pictures(data_root: Path, predictions: str, sheet: Path) -> None:
    """Draw the first validation pictures that are not empty, and a sheet."""
    truth = COCO(str(data_root / 'annotations/instances_val2017.json'))
    with open(predictions) as file:
        found = [
            result for result in json.load(file)
            if result['score'] >= SCORE_THRESHOLD
        ]
    by_image: dict[int, list[dict]] = {image_id: [] for image_id in truth.imgs}
    for result in found:
        by_image[result['image_id']].append(result)

    pairs = []
    folder = sheet.parent / 'pictures'
    folder.mkdir(exist_ok=True)
    for image_id in sorted(set(truth.imgs) & set(truth.imgToAnns)):
        info = truth.imgs[image_id]
        image = cv2.imread(str(data_root / 'val2017' / info['file_name']))
        assert image is not None, info
        pairs.append(
            np.hstack([
                draw_instances(image, 'ground truth', truth,
                               truth.imgToAnns[image_id]),
                draw_instances(image, f'score >= {SCORE_THRESHOLD}', truth,
                               by_image[image_id])
            ]))
        cv2.imwrite(
            str(folder / Path(info['file_name']).with_suffix('.png')),
            pairs[-1])
        if len(pairs) == NUM_PICTURES:
            break
    shown = pairs[:NUM_ON_SHEET]
    if len(shown) % 2:
        shown.append(np.full_like(shown[0], 255))
    rows = [np.hstack(shown[i:i + 2]) for i in range(0, len(shown), 2)]
    cv2.imwrite(str(sheet), np.vstack(rows))


def draw_instances(image: np.ndarray, caption: str, coco: COCO,
                   instances: list) -> np.ndarray:
    """Picture at twice its size with masks, boxes, classes and scores."""
    canvas = cv2.resize(image, None, fx=2, fy=2)
    for instance in instances:
        colour = COLOURS[instance['category_id'] - 1]
        mask = coco.annToMask(instance).repeat(2, 0).repeat(2, 1)
        inside = mask.astype(bool)
        canvas[inside] = 0.5 * canvas[inside] + 0.5 * np.array(colour)
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST,
                                       cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, 2)
        x, y, width, height = (round(2 * value) for value in instance['bbox'])
        cv2.rectangle(canvas, (x, y), (x + width, y + height), colour, 1)
    # Above all masks.
    for instance in instances:
        label = coco.cats[instance['category_id']]['name']
        if instance.get('iscrowd'):
            label = f'crowd: {label}'
        if 'score' in instance:
            label += f' {instance["score"]:.2f}'
        x, y = (round(2 * value) for value in instance['bbox'][:2])
        write_label(canvas, label, x, y, COLOURS[instance['category_id'] - 1])
    canvas = cv2.copyMakeBorder(
        canvas, 20, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    write_label(canvas, caption, 4, 16, (255, 255, 255))
    return canvas


def write_label(canvas: np.ndarray, label: str, x: int, y: int,
                colour: tuple[int, int, int]) -> None:
    """Write black text on a coloured strip above a point."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    (width, height), _ = cv2.getTextSize(label, font, 0.4, 1)
    x = max(0, min(x, canvas.shape[1] - width - 4))
    y = max(height + 4, y)
    cv2.rectangle(canvas, (x, y - height - 4), (x + width + 3, y), colour, -1)
    cv2.putText(canvas, label, (x + 2, y - 3), font, 0.4, (0, 0, 0), 1,
                cv2.LINE_AA)
