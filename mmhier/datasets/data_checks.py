"""Checks of the data that a config names, before anything is built."""
import os.path as osp
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS, TRANSFORMS, init_default_scope
from mmengine.utils import scandir
from mmhier.datasets.classes import (
    build_folder_dataset,
    classes_of,
    dataset_class_of,
    iter_num_classes,
    list_class_folders,
)
from mmhier.datasets.coco_checks import (
    check_annotations,
    check_categories,
    check_images,
    count_small_images,
    count_unused_classes,
    read_coco,
)
from mmhier.datasets.label_lists import check_label_list
from mmhier.datasets.mask_checks import (
    IGNORED,
    check_masks,
    check_pairs,
    spread_evenly,
    unused_masks,
)
from mmhier.datasets.memory import call_in_child
from mmhier.engine.config import (
    iter_datasets,
    iter_metrics,
    resolve_type,
    type_name,
)
from mmhier.engine.config_errors import naming_config_errors
from mmhier.engine.runtime_checks import build_named
from mmhier.errors import MMHierError


def check_data(cfg: Config,
               phases: Sequence[str],
               max_masks: int | None = 200,
               warn: Callable[[str], None] | None = None,
               keep: bool = False) -> None:
    """Check that the data of a config can be used.

    Folders and annotation files must exist, and the model must have as many
    classes as the data. COCO-style json must be readable and complete, name
    the classes of the config, and list images that are all on disk. Masks of
    labels must be as large as their images and hold labels of the classes;
    ``allow_no_zero_label = True`` in the config lets masks without a 0 pass
    where ``reduce_zero_label`` is set. Class folders must be as many as the
    classes, and the same in each phase. Annotations that the frameworks
    leave out are counted in a line of the log. Data on remote backends is not
    checked.

    Args:
        cfg (Config): Made by :func:`mmhier.apis.load_config`.
        phases (Sequence[str]): Which of 'train', 'val' and 'test' will run.
        max_masks (int, optional): How many masks of each set are read,
            evenly spread over it; None for all. Defaults to 200.
        warn (Callable, optional): Called with each warning. Defaults to
            None: they go to the log.
        keep (bool): Keep the last annotation file in memory until
            :func:`mmhier.evaluation.dry_run.dry_evaluate` has used it.
            Defaults to False.

    Raises:
        MMHierError: Names the key, the file and the mistake.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    checks = _Checks(cfg, max_masks, warn or _log_warning)
    try:
        with naming_config_errors(cfg):
            for phase in phases:
                checks.check_phase(phase)
    finally:
        if not keep:
            read_coco.cache_clear()


class _Checks:
    """Checks of one config, which compare its data sets with each other."""

    def __init__(self, cfg: Config, max_masks: int | None,
                 warn: Callable[[str], None]):
        self.cfg = cfg
        self.max_masks = max_masks
        self.warn_one = warn
        self.num_classes = list(iter_num_classes(cfg))
        self.checked: list[Any] = []

    def warn(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.warn_one(line)

    def check_phase(self, phase: str) -> None:
        """Check the data sets and evaluators of 'train', 'val' or 'test'."""
        loader = f'{phase}_dataloader'
        _check_loader(loader, self.cfg.get(loader))
        if phase != 'train' and (self.cfg.get(loader) or {}).get('drop_last'):
            self.warn([
                f'{loader}.drop_last=True leaves the images of an incomplete '
                'batch out of the scores: set drop_last=False'
            ])
        for name, dataset in iter_datasets(self.cfg.get(loader), loader):
            self.check_dataset(name, dataset)
            if phase != 'train':
                self.compare_with_training(name, dataset)
        evaluator = f'{phase}_evaluator'
        for name, metric in iter_metrics(self.cfg.get(evaluator), evaluator):
            ann_file = metric.get('ann_file')
            _check_file(f'{name}.ann_file', ann_file)
            if ann_file and type_name(metric.get('type')) == 'CocoMetric':
                read_coco(ann_file)

    def check_dataset(self, name: str, dataset: dict) -> None:
        """Check one dataset that is not a wrapper."""
        root = dataset.get('data_root') or ''
        if dataset.get('backend_args') or '://' in root:
            return
        if root and not osp.isdir(root):
            raise MMHierError(f'{name}.data_root={root} is not a folder: point '
                              'the config at your data with --data-root DIR')
        indices = dataset.get('indices')
        if indices in (0, (), []):
            raise MMHierError(f'{name}.indices={indices} leaves no image')
        ann_file = dataset.get('ann_file')
        if ann_file:
            if isinstance(ann_file, str):
                ann_file = osp.join(root, ann_file)
            _check_file(f'{name}.ann_file', ann_file)
        for i, transform in enumerate(dataset.get('pipeline') or ()):
            if isinstance(transform, dict):
                build_named(f'{name}.pipeline.{i}', transform, TRANSFORMS)
        folders = _image_folders(name, dataset)
        dataset_class = dataset_class_of(dataset)
        metainfo = classes_of(dataset_class, dataset) or {}
        classes = metainfo.get('classes')
        if isinstance(classes, str):
            raise MMHierError(
                f'{name}.metainfo.classes={classes!r} is a string, and neither '
                'a list of names nor a file of them: a single class is '
                f'written ({classes!r},), with a comma')
        stated = (dataset.get('metainfo') or {}).get('classes') or ()
        if len(set(stated)) < len(stated) and not isinstance(stated, str):
            raise MMHierError(f'{name}.metainfo.classes={tuple(stated)} names '
                              'a class twice: expected different names')
        built = build_folder_dataset(dataset_class, dataset)
        if ann_file and reads_coco(dataset_class):
            self.warn(
                call_in_child(
                    _check_coco, name, ann_file, classes and tuple(classes),
                    folders.get('img', root), _loads(dataset, 'with_mask'),
                    all(
                        t.get('poly2mask', True)
                        for t in _annotation_loaders(dataset)),
                    dict(dataset.get('filter_cfg') or {}),
                    not dataset.get('test_mode')))
        elif built is not None and not built.ann_file:
            classes = self.check_class_folders(name, dataset, classes, built)
        elif built is not None:
            stated = [number for _, number in self.num_classes]
            check_label_list(
                built.ann_file, built.img_prefix,
                len(classes) if classes else min(stated, default=None))
        if classes and not dataset.get(
                'return_classes') and 'thing_classes' not in metainfo:
            self.check_num_classes(name, len(classes))
        if _reads_masks(dataset_class) and _loads(dataset, 'type'):
            self.check_masks(name, dataset, dataset_class, classes)

    def check_num_classes(self, name: str, number: int) -> None:
        """Compare the classes of a dataset with those of the model."""
        for key, of_model in self.num_classes:
            if of_model != number:
                raise MMHierError(
                    f'{key}={of_model} disagrees with the {number} classes of '
                    f'{name}: set {key}={number}, or both with --classes')

    def check_class_folders(self, name: str, dataset: dict,
                            classes: Sequence[str] | None,
                            built: Any) -> Sequence[str]:
        """Check a folder of class folders; return the classes."""
        folder = built.img_prefix
        names = list_class_folders(built)
        if not names:
            raise MMHierError(f'{name}: {folder} is not a folder of class '
                              'folders: check --data-root and data_prefix')
        ignored = sorted(getattr(built, 'ignored_folders', ()))
        if ignored:
            self.warn([
                f'{name}: {len(ignored)} folders in {folder} are left out, '
                f'since they are hidden or hold no image: '
                f'{", ".join(ignored[:3])}' + ', ...' * (len(ignored) > 3)
            ])
        hidden = [n for n in names if n.startswith('.')]
        if hidden:
            raise MMHierError(
                f'{name}: {osp.join(folder, hidden[0])} would be taken for a '
                f'class by {type_name(dataset["type"])}, as every folder is: '
                'remove it')
        empty = [
            n for n in names if not any(
                map(built.is_valid_file,
                    scandir(osp.join(folder, n), recursive=True)))
        ]
        if empty:
            self.warn([
                f'{name}: {len(empty)} of {len(names)} class folders in '
                f'{folder} hold no image, such as {empty[0]}: they count as '
                'classes that are not seen; remove them if they are none'
            ])
        if classes is None:
            classes = names
        hint = 'take the names of the folders with --classes auto'
        if len(names) != len(classes):
            raise MMHierError(
                f'{name}: {folder} holds {len(names)} class folders, but '
                f'{dataset["type"]} has {len(classes)} classes: {hint}')
        if set(names) == set(classes) and names != list(classes):
            raise MMHierError(
                f'{name}: the class folders of {folder} are numbered by '
                f'alphabet, {", ".join(names[:3])}, ..., but the classes come '
                f'in another order, {", ".join(classes[:3])}, ...: {hint}')
        if len(names) == 1:
            raise MMHierError(
                f'{name}: {folder} holds a single class folder, {names[0]}, so '
                'there is nothing to learn: expected two or more')
        return classes

    def compare_with_training(self, name: str, dataset: dict) -> None:
        """Compare a dataset's classes with those that are trained."""
        loader = 'train_dataloader'
        for other, trained in iter_datasets(self.cfg.get(loader), loader):
            self.compare_class_folders(dataset, trained)
            classes, known = (
                list((classes_of(dataset_class_of(d), d) or {}).get('classes')
                     or ()) for d in (dataset, trained))
            if classes == known or len(classes) != len(known):
                return
            message = (
                f'the classes of {name} are {", ".join(classes[:5])}, ..., and '
                f'those of {other} {", ".join(known[:5])}, ...')
            if sorted(classes) == sorted(known):
                raise MMHierError(f'{message}, so labels would be mixed up: '
                                  'state both in the same order')
            self.warn([f'{message}: state the same names in both'])
            return

    def compare_class_folders(self, dataset: dict, trained: dict) -> None:
        """Compare the class folders of a dataset with those of training."""
        built, other = (
            build_folder_dataset(dataset_class_of(d), d)
            for d in (dataset, trained))
        if not built or not other or built.ann_file or other.ann_file:
            return
        known = list_class_folders(other)
        different = sorted(set(list_class_folders(built)) ^ set(known))
        if different and known:
            raise MMHierError(
                f'{built.img_prefix} and {other.img_prefix} hold other class '
                f'folders, such as {different[0]}, so labels would be mixed '
                'up: make them the same')

    def check_masks(self, name: str, dataset: dict, dataset_class: type,
                    classes: Sequence[str] | None) -> None:
        """Check the images and masks of one of mmseg's data sets."""
        settings = {
            k: v
            for k, v in dataset.items() if k not in ('type', 'pipeline')
        }
        if settings in self.checked:
            return
        self.checked.append(settings)
        try:
            built = dataset_class(**dict(settings, serialize_data=False))
        except (AssertionError, ValueError) as error:
            # Classes or a palette that do not fit, in mmseg's words.
            raise MMHierError(f'{name}: {error}') from error
        if 'seg_map_path' not in built.data_prefix:
            raise MMHierError(
                f'{name}.data_prefix has no seg_map_path: expected'
                ' the folder of the masks')
        if not len(built):
            raise MMHierError(
                f'{name} finds no image in {built.data_prefix["img_path"]} '
                f'with img_suffix={built.img_suffix!r}')
        reduce = built.reduce_zero_label
        for transform in _annotation_loaders(dataset):
            stated = transform.get('reduce_zero_label')
            if stated not in (None, reduce):
                raise MMHierError(
                    f'{name}.reduce_zero_label={reduce}, but LoadAnnotations '
                    f'in its pipeline has reduce_zero_label={stated}: set '
                    'both alike')
        if len(classes or ()) + reduce > IGNORED and _casts_to_bytes(dataset):
            raise MMHierError(
                f'{name} has {len(classes or ())} classes, and its '
                'LoadAnnotations reads masks as 8 bits, so that label 256 '
                f'would be taken for 0: expected at most {IGNORED - reduce} '
                'classes, or a transform of your own that keeps 16 bits')
        pairs = [(d['img_path'], d['seg_map_path']) for d in built.data_list]
        check_pairs(pairs)
        masks_folder = built.data_prefix['seg_map_path']
        if not built.ann_file and not dataset.get('indices'):
            found = scandir(masks_folder, built.seg_map_suffix, recursive=True)
            unused = unused_masks(
                pairs, [osp.join(masks_folder, path) for path in found])
            self.warn([unused] if unused else [])
        if built.label_map is not None:
            classes = built.METAINFO['classes']
        if not classes:
            raise MMHierError(
                f'{name} has no classes: name them with --classes,'
                ' or with metainfo=dict(classes=(...))')
        sample = pairs if self.max_masks is None else spread_evenly(
            pairs, self.max_masks)
        head = self.cfg.model.get('decode_head')
        _check_channels(head)
        self.warn(
            check_masks(
                sample,
                len(classes),
                reduce_zero_label=reduce,
                ignore_index=head.get('ignore_index', IGNORED) if isinstance(
                    head, dict) else IGNORED,
                allow_no_zero=self.cfg.get('allow_no_zero_label', False)))
        print_log(f'{name}: {len(sample)} of {len(pairs)} masks in '
                  f'{masks_folder} looked at')


def _check_coco(name: str, path: str, classes: tuple[str, ...] | None,
                folder: str, with_masks: bool, poly2mask: bool,
                filters: dict[str, Any], trains: bool) -> list[str]:
    """Check the annotation file of a dataset; return warnings."""
    lines = check_categories(path, classes or (), name)
    lines += check_annotations(path, with_masks, classes, poly2mask)
    lines += check_images(path, folder)
    if trains:
        lines += count_unused_classes(path, classes or (),
                                      filters.get('filter_empty_gt', False))
        if filters.get('min_size'):
            lines += count_small_images(path, filters['min_size'])
    return lines


def _image_folders(name: str, dataset: dict) -> dict[str, str]:
    """Folders of images by the key of data_prefix; they have to exist."""
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    folders = {}
    for key in ('img', 'img_path'):
        if prefixes.get(key):
            folders[key] = osp.join(
                dataset.get('data_root') or '', prefixes[key])
            if not osp.isdir(folders[key]):
                raise MMHierError(f'{name}.data_prefix.{key}={folders[key]} is '
                                  'not a folder')
    return folders


def _check_file(name: str, path: Any) -> None:
    if path and not isinstance(path, str):
        # open() would take a number for an open file, and close it.
        raise MMHierError(f'{name}={path!r} is not the path of a file')
    if path and osp.isdir(path):
        raise MMHierError(f'{name}={path} is a folder: expected a file')
    if path and '://' not in path and not osp.isfile(path):
        raise MMHierError(f'{name}={path} does not exist: check the path, or '
                          'point the config at your data with --data-root DIR')


def _check_loader(name: str, loader: Any) -> None:
    """Check the numbers of a dataloader."""
    for key, least in (('batch_size', 1), ('num_workers', 0)):
        value = loader.get(key) if isinstance(loader, dict) else None
        if value is not None and (not isinstance(value, int) or value < least):
            raise MMHierError(f'{name}.{key}={value!r}: expected a whole '
                              f'number from {least}')
    collate = loader.get('collate_fn') if isinstance(loader, dict) else None
    if isinstance(collate, dict) and not callable(
            resolve_type(collate.get('type'), FUNCTIONS)):
        raise MMHierError(f'{name}.collate_fn.type={collate.get("type")!r}: '
                          'expected a function such as default_collate')


def _check_channels(head: Any) -> None:
    """Check that a head of one channel does not end in a softmax."""
    if not isinstance(head, dict):
        return
    channels = head.get('out_channels') or head.get('num_classes')
    losses = head.get('loss_decode') or {}
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        if (channels == 1 and type_name(loss.get('type')) == 'CrossEntropyLoss'
                and not loss.get('use_sigmoid')):
            raise MMHierError(
                'model.decode_head has one channel, whose softmax is always 1, '
                'so nothing is learned: set num_classes=2 with a class for the '
                'background, or out_channels=1, num_classes=2 and loss_decode.'
                'use_sigmoid=True')


def _annotation_loaders(dataset: dict) -> list[dict]:
    """Transforms of a pipeline that load annotations."""
    return [
        transform for transform in dataset.get('pipeline') or ()
        if type_name(transform.get('type')).endswith('LoadAnnotations')
    ]


def _casts_to_bytes(dataset: dict) -> bool:
    """Whether masks are loaded by mmseg's LoadAnnotations."""
    from mmseg.datasets.transforms import LoadAnnotations
    loaders = [
        resolve_type(t['type'], TRANSFORMS)
        for t in _annotation_loaders(dataset)
    ]
    return any(
        getattr(loader, '_load_seg_map', None) is LoadAnnotations._load_seg_map
        for loader in loaders)


def _loads(dataset: dict, key: str) -> bool:
    """Whether a transform that loads annotations has this key set."""
    return any(t.get(key) for t in _annotation_loaders(dataset))


def reads_coco(dataset_class: type[Any]) -> bool:
    """Whether a class reads json as mmdet's CocoDataset does."""
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        return False
    return (isinstance(dataset_class, type)
            and issubclass(dataset_class, CocoDataset)
            and dataset_class.load_data_list is CocoDataset.load_data_list
            and dataset_class.parse_data_info is CocoDataset.parse_data_info)


def _reads_masks(dataset_class: type[Any]) -> bool:
    """Whether a class lists images and masks as mmseg's does."""
    try:
        from mmseg.datasets import BaseSegDataset
    except ImportError:
        return False
    return (isinstance(dataset_class, type)
            and issubclass(dataset_class, BaseSegDataset)
            and dataset_class.load_data_list is BaseSegDataset.load_data_list)


def _log_warning(line: str) -> None:
    print_log(f'warning: {line}')
