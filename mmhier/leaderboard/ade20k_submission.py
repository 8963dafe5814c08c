"""Packages for the ADE20K scene parsing server.

The server takes a zip file of one PNG per image, named as the image, with
labels from 1 to 150; 0 ("other objects") is no class
(https://github.com/CSAILVision/sceneparsing, "Submission format").
"""
import io
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from mmhier.errors import MMHierError
from mmhier.leaderboard.packages import (
    PackageSummary,
    Problems,
    list_entries,
    new_package,
    open_package,
    read_entry,
)
from mmhier.progress import track

NUM_CLASSES = 150

_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_COLOUR_TYPES = {
    0: 'gray',
    2: 'RGB',
    3: 'palette',
    4: 'gray with alpha',
    6: 'RGBA'
}
# Limit for label maps whose image size is unknown.
_MAX_PIXELS = 100_000_000


def read_image_sizes(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Sizes of the images to be submitted.

    Args:
        folder (str | Path): Holds .jpg or .png files.

    Returns:
        dict[str, tuple[int, int]]: Height and width by name without suffix.

    Raises:
        MMHierError: If there are no images, or one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MMHierError(f'image folder {folder} does not exist')
    sizes = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if path.stem in sizes:
            raise MMHierError(f'{folder} holds two images {path.stem}, whose '
                              'label maps would have the same name')
        try:
            with Image.open(path) as image:
                sizes[path.stem] = image.size[::-1]
        except (OSError, UnidentifiedImageError, SyntaxError,
                ValueError) as error:
            raise MMHierError(f'cannot read image {path}: {error}') from error
    if not sizes:
        raise MMHierError(f'{folder} holds no .jpg or .png images')
    return sizes


def write_ade20k_package(label_folder: str | Path,
                         path: str | Path,
                         sizes: dict[str, tuple[int, int]],
                         overwrite: bool = False) -> PackageSummary:
    """Write a package of label maps, and put it in place if it is valid.

    Args:
        label_folder (str | Path): PNGs in the server's encoding, as
            :class:`mmseg.evaluation.IoUMetric` writes them for datasets with
            ``reduce_zero_label``.
        path (str | Path): The zip file.
        sizes (dict): Of the images, see :func:`read_image_sizes`.
        overwrite (bool): Replace a package. Defaults to False.

    Returns:
        PackageSummary: Of the package.

    Raises:
        MMHierError: If the package is there, cannot be written, or is not
            valid; then nothing is written.
    """
    with new_package(path, overwrite) as staged:
        with zipfile.ZipFile(staged, 'w') as archive:
            for png in track(
                    sorted(Path(label_folder).glob('*.png')),
                    'Packing label maps'):
                # PNGs are compressed already.
                archive.writestr(zipfile.ZipInfo(png.name), png.read_bytes())
        return check_ade20k_package(staged, sizes, path)


def check_ade20k_package(path: str | Path,
                         sizes: dict[str, tuple[int, int]] | None = None,
                         name: str | Path | None = None,
                         max_bytes: int | None = None) -> PackageSummary:
    """Validate a package for the ADE20K server.

    Args:
        path (str | Path): The zip file; nothing is extracted from it.
        sizes (dict, optional): Of the images, see :func:`read_image_sizes`.
            Without it, missing label maps and their sizes are not checked.
            Defaults to None.
        name (str | Path, optional): Name of the package in messages.
            Defaults to None, ``path``.
        max_bytes (int, optional): Maximum size of all PNGs together.
            Defaults to None, 4 GiB.

    Returns:
        PackageSummary: Of a valid package.

    Raises:
        MMHierError: Lists all problems.
    """
    problems = Problems(name or path)
    # Label values of all files, to distinguish a shift from an error.
    values: set[int] = set()
    stems = set()
    with open_package(path) as archive:
        entries = list_entries(archive, '.png', problems, max_bytes)
        for info in track(entries, 'Checking the package'):
            stem = PurePosixPath(info.filename.replace('\\', '/')).stem
            stems.add(stem)
            content = read_entry(archive, info, problems)
            if content is not None:
                size = sizes.get(stem) if sizes else None
                values |= _check_label_map(info.filename, content, size,
                                           problems)
    if not entries and not problems:
        problems.add('the package is empty')
    _check_shift(values, problems)
    if sizes:
        _check_completeness(stems, sizes, problems)
    problems.raise_if_any()
    notes = [] if sizes else [
        'not checked without the images: whether label maps are unknown or '
        'missing, and whether they have the images\' sizes'
    ]
    return PackageSummary(
        str(name or path), 'labels', len(entries), len(entries), notes)


def _check_label_map(name: str, content: bytes, size: tuple[int, int] | None,
                     problems: Problems) -> set[int]:
    """Check one PNG, and return its values."""
    if content[:8] != _PNG_SIGNATURE or len(content) < 26:
        kind = 'a JPEG' if content[:2] == b'\xff\xd8' else 'no PNG'
        problems.add('files that are named .png but are none',
                     f'{name} is {kind}')
        return set()
    width, height, depth, colour = struct.unpack('>IIBB', content[16:26])
    if colour != 0 or depth != 8:
        kind = _COLOUR_TYPES.get(colour, f'colour type {colour}')
        problems.add(
            'label maps that are not 8-bit gray (save label values as mode '
            '"L", not as colours of a palette)', f'{name} is {depth}-bit '
            f'{kind}')
        return set()
    if size is not None and (height, width) != size:
        swapped = (width, height) == size
        hint = ', height and width are swapped' if swapped else ''
        problems.add(
            'label maps of another size than their image',
            f'{name}: {width} x {height}, the image has {size[1]} x '
            f'{size[0]}{hint}')
        return set()
    if size is None and width * height > _MAX_PIXELS:
        problems.add('label maps that are too large to be read',
                     f'{name}: {width} x {height}')
        return set()
    try:
        with Image.open(io.BytesIO(content)) as image:
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:
        problems.add('label maps that are truncated or damaged',
                     f'{name} ({error})')
        return set()
    found = set(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)))
    for value in (0, 255):
        if value in found:
            share = np.mean(labels == value)
            problems.add(
                f'label maps with the value {value}, which is no '
                'class', f'{name}, {100 * share:.1f} % of it')
    beyond = [value for value in found if NUM_CLASSES < value < 255]
    if beyond:
        problems.add(f'label maps with values above {NUM_CLASSES}',
                     f'{name}, up to {max(beyond)}')
    return found


def _check_shift(values: set[int], problems: Problems) -> None:
    """Report labels that are off by one in the whole package."""
    expected = ('expected 1 to 150, the class index of a model that does not '
                'know "other objects", plus one')
    if 0 in values and max(values) < NUM_CLASSES:
        problems.add('labels are shifted: they begin at 0 and end before '
                     f'{NUM_CLASSES} ({expected})')
    elif NUM_CLASSES + 1 in values and max(values) == NUM_CLASSES + 1:
        problems.add(f'labels are shifted: they end at {NUM_CLASSES + 1} '
                     f'({expected})')


def _check_completeness(stems: set[str], sizes: dict[str, tuple[int, int]],
                        problems: Problems) -> None:
    for stem in sorted(sizes.keys() - stems):
        problems.add(f'missing label maps (of {len(sizes)} images)',
                     f'{stem}.png')
    for stem in sorted(stems - sizes.keys()):
        problems.add('label maps of no image', f'{stem}.png')


def ade20k_package_name(testset: str, algorithm: str) -> str:
    """Name of a package; the server asks for none.

    Args:
        testset (str): Name of the image folder, such as 'testing'.
        algorithm (str): Name of the method.

    Raises:
        MMHierError: If it would not be a file name.
    """
    if not algorithm or set(algorithm) & set('/\\\0'):
        raise MMHierError(f'{algorithm!r} cannot be part of a file name')
    return f'ade20k_{testset}_{algorithm}.zip'
