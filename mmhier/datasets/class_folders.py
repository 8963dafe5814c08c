"""Class folders to ignore: hidden ones, and those without an image."""
import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import init_default_scope
from mmpretrain import datasets
from mmpretrain.datasets.custom import find_folders, get_samples
from mmhier.datasets.classes import build_folder_dataset, classes_of
from mmhier.engine.config import DATALOADERS, iter_datasets, resolve_type
from mmhier.errors import MMHierError
from mmhier.registry import DATASETS

# Created by macOS archives, Python, Synology and Windows.
_SYSTEM = ('__MACOSX', '__pycache__', '@eaDir', '$RECYCLE.BIN')


class _IgnoresFolders:
    """Mixin for mmpretrain's datasets of class folders.

    Args:
        *args: See mmpretrain's dataset.
        ignored_folders (Sequence[str]): Folders that are no classes.
            Defaults to ().
        **kwargs: See mmpretrain's dataset.
    """
    CLASSES: Any
    is_valid_file: Any
    img_prefix: str
    with_label: bool
    _metainfo: dict

    def __init__(self,
                 *args: Any,
                 ignored_folders: Sequence[str] = (),
                 **kwargs: Any):
        self.ignored_folders = frozenset(ignored_folders)
        super().__init__(*args, **kwargs)

    def _find_samples(self) -> list:
        if not self.with_label:
            return super()._find_samples()  # type: ignore[misc]
        names = [
            name for name in find_folders(self.img_prefix)[0]
            if name not in self.ignored_folders
        ]
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(names)
        elif len(self.CLASSES) != len(names):
            raise MMHierError(
                f'{self.img_prefix} holds {len(names)} class folders, but the '
                f'dataset has {len(self.CLASSES)} classes')
        self.folder_to_idx = {name: i for i, name in enumerate(names)}
        samples, _ = get_samples(self.img_prefix, self.folder_to_idx,
                                 self.is_valid_file)
        return samples


@DATASETS.register_module()
class CustomDataset(_IgnoresFolders, datasets.CustomDataset):
    """mmpretrain's CustomDataset without some folders."""


@DATASETS.register_module()
class ImageNet(_IgnoresFolders, datasets.ImageNet):
    """mmpretrain's ImageNet without some folders."""


@DATASETS.register_module()
class ImageNet21k(_IgnoresFolders, datasets.ImageNet21k):
    """mmpretrain's ImageNet21k without some folders."""


_OWN = {
    base: f'mmhier.{own.__name__}'
    for own in (CustomDataset, ImageNet, ImageNet21k)
    for base in (own, own.__mro__[2])
}


def leave_out_folders(cfg: Config) -> None:
    """Make the datasets of a config ignore class folders that are no classes.

    Ignored are hidden folders such as ``.ipynb_checkpoints`` and, unless there
    are as many folders as stated classes, folders that hold no image in any
    data set. The datasets become those of this module.

    Args:
        cfg (Config): Changed in place.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    found = []
    filled: set[str] = set()
    for loader in DATALOADERS:
        for _, dataset in iter_datasets(cfg.get(loader), loader):
            root = dataset.get('data_root') or ''
            if dataset.get('backend_args') or '://' in root:
                continue
            kind = resolve_type(dataset['type'], MMENGINE_DATASETS)
            built = build_folder_dataset(kind, dataset)
            if built is None or built.ann_file or not osp.isdir(
                    built.img_prefix):
                continue
            names = find_folders(built.img_prefix)[0]
            classes = (classes_of(kind, dataset) or {}).get('classes')
            found.append((dataset, kind, names, classes))
            filled.update(
                name for name in names
                if _holds_image(osp.join(built.img_prefix, name), built))
    for dataset, kind, names, classes in found:
        ignored = [name for name in names if _is_hidden(name)]
        if classes is None or len(names) - len(ignored) != len(classes):
            ignored = [n for n in names if n in ignored or n not in filled]
        if ignored and kind in _OWN:
            dataset['type'] = _OWN[kind]
            dataset['ignored_folders'] = ignored


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in _SYSTEM


def _holds_image(folder: str, dataset: Any) -> bool:
    return any(
        dataset.is_valid_file(name) for _, _, names in os.walk(folder)
        for name in names)
