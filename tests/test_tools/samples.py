"""Small data sets of bright rectangles, written by the tests."""
import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api

CLASSES = ('box', 'bar', 'tile')
NUM_IMAGES = 6


def write_coco(root: Path) -> Path:
    """COCO instances, the same for train2017 and val2017.

    The first image has no annotation, the second is grayscale, the third has
    a crowd annotation besides its box.
    """
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(NUM_IMAGES):
        name = f'{i:03d}.jpg'
        images.append(dict(id=i + 1, file_name=name, height=64, width=96))
        canvas = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        if i > 0:
            x, y = (int(v) for v in rng.integers(4, 30, 2))
            label = i % len(CLASSES)
            w, h = ((30, 30), (50, 14), (24, 24))[label]
            canvas[y:y + h, x:x + w] = 255
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i + 1,
                    category_id=10 * (label + 1),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[corners]))
        if i == 2:
            crowd = np.zeros((64, 96), np.uint8, order='F')
            crowd[50:62, 60:90] = 1
            counts = mask_api.encode(crowd)['counts'].decode()
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i + 1,
                    category_id=10,
                    bbox=[60, 50, 30, 12],
                    area=360,
                    iscrowd=1,
                    segmentation=dict(size=[64, 96], counts=counts)))
        if i == 1:
            canvas = canvas[..., 0]
        for split in ('train2017', 'val2017'):
            (root / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / name), canvas)
    categories = [
        dict(id=10 * (i + 1), name=name) for i, name in enumerate(CLASSES)
    ]
    content = dict(
        images=images, annotations=annotations, categories=categories)
    (root / 'annotations').mkdir()
    for split in ('train', 'val'):
        path = root / 'annotations' / f'instances_{split}2017.json'
        path.write_text(json.dumps(content))
    return root


def write_yolo(root: Path) -> Path:
    """Outlines of two classes in YOLO's format."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            image = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
            image[16:48, 24:72] = 255
            cv2.imwrite(str(root / 'images' / split / f'{i}.jpg'), image)
            (root / 'labels' / split / f'{i}.txt'
             ).write_text(f'{i} 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n')
    (root / 'data.yaml'
     ).write_text('train: images/train\nval: images/val\nnames: [box, tile]\n')
    return root


def write_masks(root: Path) -> Path:
    """Images and masks of classes 0 and 1, for semantic segmentation."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            mask = np.zeros((64, 64), np.uint8)
            mask[16:48, 8 + i:40] = 1
            image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            image[mask == 1] += 150
            cv2.imwrite(str(root / 'images' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(root / 'annotations' / split / f'{i}.png'), mask)
    return root


def write_folders(root: Path) -> Path:
    """Class folders of dark and of bright images, for classification."""
    for split in ('train', 'val'):
        for name, value in (('bright', 200), ('dark', 30)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                image = np.full((64, 64, 3), value + i, np.uint8)
                cv2.imwrite(str(folder / f'{name}_{i}.jpg'), image)
    return root
