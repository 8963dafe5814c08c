"""Ground truth and detections for tests of what evaluates them."""
import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as mask_api
from pycocotools.coco import COCO


def rectangle(x, y, w, h, size=(200, 200)):
    mask = np.zeros(size, np.uint8, order='F')
    mask[y:y + h, x:x + w] = 1
    return mask_api.encode(mask)


def write_truth(folder: Path, boxes, num_images=1) -> str:
    """Annotation file of boxes (image, class, x, y, w, h[, crowd])."""
    annotations = []
    for image, label, x, y, w, h, *crowd in boxes:
        counts = rectangle(x, y, w, h)['counts'].decode()
        annotations.append(
            dict(
                id=1 + len(annotations),
                image_id=image,
                category_id=label,
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=int(bool(crowd)),
                segmentation=dict(size=[200, 200], counts=counts)))
    content = dict(
        images=[
            dict(id=i, file_name=f'{i}.jpg', height=200, width=200)
            for i in range(num_images)
        ],
        annotations=annotations,
        categories=[dict(id=i, name=f'class {i}') for i in (1, 2)])
    path = folder / 'truth.json'
    path.write_text(json.dumps(content))
    return str(path)


def sample(image, found, size=(200, 200)) -> dict:
    """Data sample of detections (label, score, x, y, w, h[, mask])."""
    boxes = [[x, y, x + w, y + h] for _, _, x, y, w, h, *_ in found]
    masks = [
        rest[0] if rest else rectangle(x, y, w, h, size)
        for _, _, x, y, w, h, *rest in found
    ]
    return dict(
        img_id=image,
        ori_shape=size,
        pred_instances=dict(
            bboxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            scores=torch.tensor([d[1] for d in found], dtype=torch.float64),
            labels=torch.tensor([d[0] for d in found], dtype=torch.long),
            masks=masks))


def disturbed(path: str, seed: int) -> list:
    """Noisy, dropped, repeated, mistaken detections of a ground truth."""
    rng = np.random.default_rng(seed)
    truth = COCO(path)
    labels = {c: i for i, c in enumerate(truth.getCatIds())}
    samples = []
    for image, info in truth.imgs.items():
        size = info['height'], info['width']
        found = []
        for annotation in truth.imgToAnns[image]:
            mask = truth.annToMask(annotation)
            for _ in range(rng.choice(4, p=[0.15, 0.55, 0.2, 0.1])):
                x, y, w, h = annotation['bbox']
                noise = rng.choice([0.02, 0.1, 0.3])
                x, y = (x, y) + noise * rng.standard_normal(2) * (w, h)
                w, h = (w, h) * np.exp(noise * rng.standard_normal(2))
                label = labels[annotation['category_id']]
                if rng.random() < 0.15:
                    label = int(rng.integers(len(labels)))
                shift = (rng.standard_normal(2) * noise * 20).astype(int)
                moved = np.roll(mask, shift, (0, 1))
                # Few decimals, so that some scores are equal.
                found.append((label, round(rng.random(), 2), x, y, w, h,
                              mask_api.encode(np.asfortranarray(moved))))
        for _ in range(rng.integers(4)):
            w, h = (int(v) for v in rng.integers(4, min(size) // 2, 2))
            x, y = (int(rng.integers(size[1] - w)),
                    int(rng.integers(size[0] - h)))
            found.append(
                (int(rng.integers(len(labels))), rng.random(), x, y, w, h,
                 rectangle(x, y, w, h, size)))
        samples.append(sample(image, found, size))
    return samples
