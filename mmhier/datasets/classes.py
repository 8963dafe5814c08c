"""Classes of a user's own data, and the number of them in a model."""
import inspect
import os.path as osp
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmhier.datasets.coco_checks import read_coco
from mmhier.engine.config import (
    DATALOADERS,
    EVALUATORS,
    iter_datasets,
    iter_metrics,
    resolve_type,
)
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError

AUTO = 'auto'


def set_classes(cfg: Config, classes: str | Sequence[str]) -> None:
    """Give every dataset of a config these classes, and the model as many.

    See :func:`set_num_classes` for the keys that follow the number.

    Args:
        cfg (Config): Changed in place.
        classes (str | Sequence[str]): Names in the order of the labels; a
            .txt file with a name a line; or 'auto' for the categories of the
            annotation file, or the class folders, of the training set (of the
            next set whose files exist, if there are none).

    Raises:
        MMHierError: If there are no such names, or the model has no number of
            classes to set.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    datasets = [
        item for loader in DATALOADERS
        for item in iter_datasets(cfg.get(loader), loader)
    ]
    names = [classes] if isinstance(classes, str) else list(classes)
    if names == [AUTO]:
        if cfg.get('default_scope') == 'mmpretrain':
            # Imported here because it imports this module.
            from mmhier.datasets.class_folders import leave_out_folders
            leave_out_folders(cfg)
        names, source = _own_names(datasets)
    else:
        source = '--classes'
        if len(names) == 1 and names[0].endswith('.txt'):
            source = names[0]
            names = _read_names(source)
    _refuse_twice(names, source)
    for name, dataset in datasets:
        _set_metainfo(name, dataset, names)
    changed = set_num_classes(cfg, len(names))
    shown = ', '.join(names[:5]) + ', ...' * (len(names) > 5)
    print_log(f'{len(names)} classes from {source}: {shown} (metainfo of '
              f'{len(datasets)} datasets, {", ".join(changed)})')


def set_num_classes(cfg: Config, number: int) -> list[str]:
    """Set every number of classes of a config.

    These are the heads', the data preprocessor's, at the top level or in the
    model, and those of batch augmentations. Uniform class weights of losses
    are resized; top-k accuracies of more guesses than classes are left out.

    Args:
        cfg (Config): Changed in place.
        number (int): Number of classes.

    Returns:
        list[str]: Changes, such as 'model.bbox_head.num_classes=3'.

    Raises:
        MMHierError: If no head has a number of classes, class weights differ,
            or a head tells things from stuff.
    """
    model = cfg.get('model') or {}
    changed = []
    for name, head in _iter_heads(model, 'model'):
        if head.get('num_stuff_classes'):
            raise MMHierError(
                f'--classes: {name} tells things from stuff: set '
                'num_things_classes and num_stuff_classes in the config')
        key = _class_key(head)
        if key is None:
            continue
        old = head.get(key)
        if old is None:
            old = _default_num_classes(head)
        if old is None:
            continue
        _set_class_weights(name, head, old, number)
        head[key] = number
        changed.append(f'{name}.{key}={number}')
    if not changed:
        raise MMHierError(f'--classes: model {model.get("type")} has no head '
                          'with num_classes: set the classes in the config')
    for name, part in _iter_preprocessing(cfg):
        part['num_classes'] = number
        changed.append(f'{name}.num_classes={number}')
    for evaluator in EVALUATORS:
        for name, metric in iter_metrics(cfg.get(evaluator), evaluator):
            topk = metric.get('topk')
            if isinstance(topk, (list, tuple)) and max(topk) > number:
                metric['topk'] = tuple(k for k in topk if k <= number) or (1, )
                changed.append(f'{name}.topk={metric["topk"]}')
    return changed


def iter_num_classes(cfg: Config) -> Iterator[tuple[str, int]]:
    """Numbers of classes that a config gives its model.

    Args:
        cfg (Config): May have no ``model``.

    Yields:
        tuple[str, int]: Dotted key and number of each head, those that are
        left to the head's default among them, of the data preprocessor and
        of batch augmentations.
    """
    for name, head in _iter_heads(cfg.get('model') or {}, 'model'):
        key = _class_key(head)
        number = head.get(key) if key else None
        if number is None and key == 'num_classes':
            number = _default_num_classes(head)
        if isinstance(number, int):
            yield f'{name}.{key}', number
    for name, part in _iter_preprocessing(cfg):
        yield f'{name}.num_classes', part['num_classes']


def classes_of(dataset_class: type, dataset: dict) -> dict[str, Any] | None:
    """Meta information, ``classes`` among it, that a dataset will have.

    Args:
        dataset_class (type): What its ``type`` names.
        dataset (dict): Its settings.

    Returns:
        dict, optional: None for classes that are no mmengine BaseDataset.
    """
    load = getattr(dataset_class, '_load_metainfo', None)
    return None if load is None else load(dataset.get('metainfo'))


def dataset_class_of(dataset: dict) -> type:
    """Class that the ``type`` of a dataset names."""
    found = resolve_type(dataset['type'], DATASETS)
    if found is None:
        raise MMHierError(f'dataset type {dataset["type"]} is not known: check '
                          'its spelling, its package and default_scope')
    return found


def build_folder_dataset(dataset_class: type[Any], dataset: dict) -> Any | None:
    """Mmpretrain's dataset of class folders or a list of labels, not read.

    Args:
        dataset_class (type): What its ``type`` names.
        dataset (dict): Its settings.

    Returns:
        mmpretrain.datasets.CustomDataset, optional: None if the dataset takes
        its labels from elsewhere, or has none.
    """
    try:
        from mmpretrain.datasets import CustomDataset
    except ImportError:
        return None
    if (not isinstance(dataset_class, type)
            or not issubclass(dataset_class, CustomDataset) or
            dataset_class.load_data_list is not CustomDataset.load_data_list):
        return None
    settings = {
        k: v
        for k, v in dataset.items() if k not in ('type', 'pipeline')
    }
    with naming_config_errors(dict(dataset=dataset)):
        built = dataset_class(**dict(settings, lazy_init=True))
    return built if built.with_label else None


def list_class_folders(built: Any) -> list[str]:
    """Names of the class folders of a dataset, in mmpretrain's order.

    Args:
        built (mmpretrain.datasets.CustomDataset): See
            :func:`build_folder_dataset`.
    """
    from mmpretrain.datasets.custom import find_folders
    if not osp.isdir(built.img_prefix):
        return []
    ignored = getattr(built, 'ignored_folders', ())
    return [n for n in find_folders(built.img_prefix)[0] if n not in ignored]


def _own_names(datasets: Sequence[tuple[str, dict]]) -> tuple[list[str], str]:
    """Class names that the data states, and the file or folder with them."""
    for name, dataset in datasets:
        built = build_folder_dataset(dataset_class_of(dataset), dataset)
        if built is not None and not built.ann_file:
            names = list_class_folders(built)
            if names:
                return names, built.img_prefix
        ann_file = dataset.get('ann_file')
        if isinstance(ann_file, str) and ann_file.endswith('.json'):
            path = osp.join(dataset.get('data_root') or '', ann_file)
            if osp.isfile(path):
                categories = read_coco(path)['categories']
                return [c['name'] for c in categories], path
    first = datasets[0][0] if datasets else 'train_dataloader.dataset'
    raise MMHierError(
        '--classes auto needs an annotation file in the format of COCO, or a '
        f'folder for each class, in {first}: check --data-root, or name the '
        'classes with --classes')


def _read_names(path: str) -> list[str]:
    try:
        with open(path, encoding='utf-8') as file:
            names = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise MMHierError(
            f'--classes {path} cannot be read as text: {error}') from error
    return [name for name in names if name]


def _refuse_twice(names: list[str], source: str) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        wrong = f'names {twice[0]} twice' if twice else 'names no class'
        raise MMHierError(f'{source} {wrong}: expected each class once, in the '
                          'order of the labels')


def _set_metainfo(name: str, dataset: dict, names: list[str]) -> None:
    """Set the classes of one dataset; drop a palette with too few colours."""
    dataset_class = dataset_class_of(dataset)
    own = getattr(dataset_class, 'METAINFO', {})
    metainfo = dict(dataset.get('metainfo') or {}, classes=tuple(names))
    if 0 < len(metainfo.get('palette') or ()) != len(names):
        del metainfo['palette']
    if hasattr(dataset_class, 'get_label_map'):
        # mmseg's, which selects among the classes that its masks have.
        unknown = [n for n in names if n not in own.get('classes', names)]
        if unknown:
            raise MMHierError(
                f'--classes: {unknown[0]} is none of the classes of '
                f'{dataset["type"]}, whose masks have a fixed meaning: for '
                f"masks of your own set {name}.type='BaseSegDataset', as "
                'docs/own_data.md shows')
    elif 0 < len(own.get('palette') or ()) < len(names):
        metainfo['palette'] = None
    dataset['metainfo'] = metainfo


def _set_class_weights(name: str, head: dict, old: int, number: int) -> None:
    """Resize the weights of the classes in the losses of a head.

    A weight behind those of the classes, such as DETR's for "no object",
    stays.
    """
    for key, losses in head.items():
        if not key.startswith('loss'):
            continue
        for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
            weights = loss.get('class_weight') if isinstance(loss,
                                                             dict) else None
            if not isinstance(weights, (list, tuple)):
                continue
            extra = len(weights) - old
            if extra not in (0, 1) or len(weights) == number + extra:
                continue
            if len(set(weights[:old])) > 1:
                raise MMHierError(
                    f'--classes: {name}.{key}.class_weight has a weight for '
                    f'each of {old} classes: set {number + extra} weights')
            loss['class_weight'] = [weights[0]] * number + list(weights[old:])


def _iter_heads(part: dict, name: str) -> Iterator[tuple[str, dict]]:
    """Heads of a model that tell the classes of the data apart.

    A region proposal network finds objects of any class; the fused semantic
    head of HTC has classes of another dataset.
    """
    for key, value in part.items():
        if not key.endswith('head') or key in ('rpn_head', 'semantic_head'):
            continue
        several = isinstance(value, (list, tuple))
        for i, head in enumerate(value if several else [value]):
            if isinstance(head, dict):
                head_name = f'{name}.{key}.{i}' if several else f'{name}.{key}'
                yield head_name, head
                yield from _iter_heads(head, head_name)


def _class_key(head: dict) -> str | None:
    """Key that holds a head's number of classes, None if it has none.

    MaskFormer's heads count things and stuff; without stuff, as in instance
    segmentation, the things are the classes.
    """
    if 'num_things_classes' in head:
        is_panoptic = head.get('num_stuff_classes') != 0
        return None if is_panoptic else 'num_things_classes'
    known = head.get('num_classes') or _default_num_classes(head)
    return None if known is None else 'num_classes'


def _iter_preprocessing(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Parts of preprocessing that state num_classes: the preprocessor, at the
    top level or in the model, and batch augmentations."""
    model = cfg.get('model') or {}
    train_cfg = model.get('train_cfg')
    augments = train_cfg.get('augments') if isinstance(train_cfg, dict) else ()
    for name, part in (('data_preprocessor', cfg.get('data_preprocessor')),
                       ('model.data_preprocessor',
                        model.get('data_preprocessor')),
                       ('model.train_cfg.augments', augments)):
        yield from _iter_stating(part, name)


def _iter_stating(part: Any, name: str) -> Iterator[tuple[str, dict]]:
    """Dicts below a part of a config with a number under num_classes."""
    if isinstance(part, (list, tuple)):
        for i, item in enumerate(part):
            yield from _iter_stating(item, f'{name}.{i}')
    elif isinstance(part, dict):
        if isinstance(part.get('num_classes'), int):
            yield name, part
        for key, value in part.items():
            yield from _iter_stating(value, f'{name}.{key}')


def _default_num_classes(head: dict) -> int | None:
    """Number of classes of a head whose config does not state it."""
    head_class = resolve_type(head.get('type'), MODELS)
    for base in getattr(head_class, '__mro__', ()):
        if '__init__' in vars(base):
            parameter = inspect.signature(
                base.__init__).parameters.get('num_classes')
            if parameter is not None:
                known = isinstance(parameter.default, int)
                return parameter.default if known else None
    return None
