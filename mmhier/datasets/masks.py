"""Binary masks in COCO's formats."""
import cv2
import numpy as np


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """Outline a mask along its pixels' edges.

    Vertices are pixel corners, so ``pycocotools`` decodes the union of the
    polygons to exactly this mask. COCO polygons have no holes: a part with a
    hole is cut there in two.

    Args:
        mask (np.ndarray): Binary mask of shape (H, W).

    Returns:
        list[list[int]]: One ``[x0, y0, x1, y1, ...]`` a part; an empty list
        for an empty mask.
    """
    # findContours joins pixel centres. Each pixel becomes 3 x 3, whose first
    # and last centre then stand for the pixel's two edges.
    enlarged = mask.astype(np.uint8).repeat(3, 0).repeat(3, 1)
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP,
                                           cv2.CHAIN_APPROX_SIMPLE)
    for contour, (_, _, _,
                  parent) in zip(contours,
                                 [] if hierarchy is None else hierarchy[0]):
        if parent >= 0:
            cut = int(contour[:, 0, 0].mean()) // 3
            left, right = mask.copy(), mask.copy()
            left[:, cut:] = 0
            right[:, :cut] = 0
            return mask_to_polygons(left) + mask_to_polygons(right)

    polygons = []
    for contour in contours:
        vertices = (contour[:, 0] + 1) // 3
        vertices = vertices[(vertices != np.roll(vertices, 1, 0)).any(1)]
        before = np.roll(vertices, 1, 0) - vertices
        after = np.roll(vertices, -1, 0) - vertices
        is_corner = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
        polygons.append(vertices[is_corner].ravel().tolist())
    return polygons


def mask_to_rle(mask: np.ndarray) -> dict[str, list]:
    """Encode a mask as COCO's uncompressed run lengths.

    Args:
        mask (np.ndarray): Binary mask of shape (H, W).

    Returns:
        dict: ``counts``, the lengths of runs of zeros and ones in turn going
        down the columns, and ``size``, ``[H, W]``.
    """
    pixels = np.concatenate([[0], mask.ravel(order='F') != 0])
    changes = np.flatnonzero(np.diff(pixels.astype(np.int8)))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return dict(counts=counts.tolist(), size=list(mask.shape))
