"""Counts of the images of a data set."""
from statistics import median
from typing import Any

from PIL import Image
from mmhier.datasets.coco_checks import describe_other_size
from mmhier.datasets.mask_checks import spread_evenly, upright_size
from mmhier.errors import MMHierError
from mmhier.progress import track

_MAX_DECODED = 100


def count_images(name: str, dataset: Any,
                 every_file: bool) -> list[tuple[str, str]]:
    """Count images, classes and images without a label, and decode files.

    Args:
        name (str): Key of the dataset.
        dataset (Dataset): Of any package.
        every_file (bool): Decode all images rather than 100.

    Returns:
        list[tuple[str, str]]: Levels and messages of findings.

    Raises:
        MMHierError: If the dataset is empty.
    """
    if len(dataset) == 0:
        raise MMHierError(f'{name} is empty: no image is left of '
                          f'{dataset.ann_file or dataset.data_root}')
    decoded = set(
        spread_evenly(
            range(len(dataset)),
            len(dataset) if every_file else _MAX_DECODED))
    sizes, broken, misplaced, num_empty = [], [], [], 0
    pipeline = getattr(dataset, 'pipeline', None)
    as_stored = any(
        str(getattr(transform, 'color_type', '')).endswith('ignore_orientation')
        for transform in getattr(pipeline, 'transforms', ()))
    for i in track(range(len(dataset)), f'Reading {name}'):
        info = dataset.get_data_info(i)
        if 'instances' in info:
            num_empty += all(
                instance.get('ignore_flag') for instance in info['instances'])
        if i in decoded and isinstance(info.get('img_path'), str):
            try:
                with Image.open(info['img_path']) as image:
                    image.load()
                    sizes.append(image.size)
                    height, width = upright_size(image)
                if as_stored:
                    width, height = image.size
                stated = info.get('height'), info.get('width')
                if None not in stated:
                    reason = describe_other_size((height, width), stated)
                    if reason is not None:
                        misplaced.append(f'{info["img_path"]} {reason}')
            except (OSError, ValueError, Image.DecompressionBombError,
                    SyntaxError) as error:
                broken.append(f'{info["img_path"]}: {error}')
    num_classes = len(dataset.metainfo.get('classes') or ())
    message = f'{name}: {len(dataset)} images, {num_classes} classes'
    if num_empty:
        message += f', {num_empty} images without a label'
    if sizes:
        widths, heights = zip(*sizes)
        message += (
            f'; {len(sizes)} files decoded, {min(widths)}x{min(heights)} '
            f'to {max(widths)}x{max(heights)}, median '
            f'{median(widths):.0f}x{median(heights):.0f} pixels')
    found = [('note', message)]
    if broken:
        found.append(('error', f'{name}: {len(broken)} images cannot be read, '
                      f'such as {broken[0]}'))
    if misplaced:
        found.append(('error', f'{name}: {len(misplaced)} images are of '
                      'another size than their annotations, such as '
                      f'{misplaced[0]}'))
    return found
