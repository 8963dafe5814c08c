"""Check of lists of images and labels, before mmpretrain reads them."""
import os.path as osp

from mmhier.errors import MMHierError
from mmhier.files import missing_files


def check_label_list(path: str, folder: str, num_classes: int | None) -> None:
    """Check a list whose lines are an image, a space and a label.

    Args:
        path (str): The list.
        folder (str): Folder that names of images are relative to.
        num_classes (int, optional): None if unknown.

    Raises:
        MMHierError: Names the line and the label, or an image that is missing.
    """
    images = []
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            image, _, label = line.strip().rpartition(' ')
            if not label.isdecimal() or (num_classes
                                         and int(label) >= num_classes):
                last = f'0 to {num_classes - 1}' if num_classes else 'a number'
                raise MMHierError(
                    f'{path}, line {number}: label {label!r} is none of the '
                    f'classes, expected {last} after an image and a space')
            images.append(osp.join(folder, image))
    if not images:
        raise MMHierError(f'{path} is empty: expected an image and its label '
                          'on each line')
    missing = missing_files(images)
    if missing:
        raise MMHierError(f'{len(missing)} of the {len(images)} images in '
                          f'{path} are not on disk, such as {missing[0]}')
