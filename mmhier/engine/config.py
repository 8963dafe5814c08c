"""Reading a config and pointing it at data, with mistakes named."""
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import ConfigParsingError
from mmengine.registry import MODELS, Registry
from mmhier.errors import MMHierError, require_utf8
from mmhier.files import make_writable
from mmhier.zoo import config_path

# Top-level keys of OpenMMLab 2.x, and their successors. Some 3.x configs
# carry one of the first group along as a variable, so these count as legacy
# only where their successor is absent.
_RENAMED = {
    'data': ('train_dataloader', 'train_dataloader, val_dataloader and '
             'test_dataloader'),
    'optimizer':
    ('optim_wrapper', "optim_wrapper=dict(type='OptimWrapper', optimizer=...)"),
    'runner': ('train_cfg', 'train_cfg'),
    'total_epochs': ('train_cfg', 'train_cfg=dict(max_epochs=...)'),
    'total_iters': ('train_cfg', 'train_cfg=dict(max_iters=...)'),
}
_DROPPED = {
    'optimizer_config': 'optim_wrapper=dict(clip_grad=...)',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'evaluation': 'val_evaluator and train_cfg=dict(val_interval=...)',
    'checkpoint_config': 'default_hooks=dict(checkpoint=...)',
    'log_config': 'default_hooks=dict(logger=...)',
    'workflow': 'train_cfg and val_cfg',
    'resume_from': 'resume and load_from',
    'dist_params': 'env_cfg=dict(dist_cfg=...)',
}
# Types of mmhier's up to 0.1, which took channels and classes of their parts
# from the backbone, and what a config states instead.
_WIRED = {
    'mmhier.MaskRCNN': ('mmdet.MaskRCNN', 'roi_head.bbox_head.num_classes, '
                        'roi_head.mask_head.num_classes'),
    'mmhier.CascadeRCNN':
    ('mmdet.CascadeRCNN', 'num_classes of each roi_head.bbox_head, '
     'roi_head.mask_head.num_classes'),
    'mmhier.RetinaNet': ('mmdet.RetinaNet', 'bbox_head.num_classes'),
    'mmhier.EncoderDecoder':
    ('mmseg.EncoderDecoder', 'decode_head.num_classes, '
     'auxiliary_head.num_classes'),
    'mmhier.ImageClassifier':
    ('mmpretrain.ImageClassifier', 'head.num_classes, '
     'data_preprocessor.num_classes'),
}
DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
EVALUATORS = ('val_evaluator', 'test_evaluator')


def load_config(path: str,
                *,
                work_dir: str | None = None,
                data_root: str | None = None,
                data_format: str | None = None,
                classes: str | Sequence[str] | None = None,
                cfg_options: dict[str, Any] | None = None,
                launcher: str = 'none') -> Config:
    """Read a config file and apply the options of the command line.

    Args:
        path (str): A config file for mmdet, mmseg or mmpretrain, or the name
            of a config of mmhier.
        work_dir (str, optional): Where results go. Defaults to None: the
            config's own, else work_dirs/ and the name of the file.
        data_root (str, optional): See :func:`set_data_root`.
            Defaults to None, the config's own.
        data_format (str, optional): Format of ``data_root``, 'yolo' or 'voc':
            converts its annotations into work_dir and implies
            ``classes='auto'``. Defaults to None, the config's format.
        classes (str | Sequence[str], optional): Names, a file of them, or
            'auto'; see :func:`mmhier.datasets.classes.set_classes`. They win
            over ``cfg_options``. Defaults to None, the config's own.
        cfg_options (dict, optional): Values by dotted key; they win over
            ``data_root``. Defaults to None.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        Config: Ready for mmengine's Runner; its work_dir exists.

    Raises:
        MMHierError: If the file is missing, is no config, is written for
            OpenMMLab 2.x or needs a package that is not installed, if an
            option does not fit, or if work_dir cannot be written to.
    """
    require_utf8('config file', path)
    require_utf8('--work-dir', work_dir)
    require_utf8('--data-root', data_root)
    require_utf8('--cfg-options', cfg_options)
    path = config_path(path)
    cfg = _read(path)
    _refuse_legacy_keys(path, cfg)
    refuse_wired_types(cfg)
    scope = cfg.get('default_scope')
    if scope is None:
        scope = cfg.default_scope = _scope_of_model(cfg)
    if find_spec(scope) is None:
        raise MMHierError(
            f'{path} needs {scope} (default_scope), which is not installed: '
            'run pip install "mmhier[openmmlab]"')
    stem = osp.splitext(osp.basename(path))[0]
    own_dir = osp.join('work_dirs', stem)
    if data_format is not None:
        # Imported here because it imports this module.
        from mmhier.datasets.formats import use_data_format
        options = cfg_options or {}
        folder = (
            work_dir or options.get('work_dir') or cfg.get('work_dir')
            or own_dir)
        use_data_format(cfg, data_format, data_root,
                        osp.join(folder, 'converted_data'))
        classes = 'auto' if classes is None else classes
    elif data_root is not None:
        set_data_root(cfg, data_root)
    if cfg_options:
        _merge_options(cfg, cfg_options)
    if classes is not None:
        # Imported here because it imports this module.
        from mmhier.datasets.classes import set_classes
        set_classes(cfg, classes)
    if scope == 'mmpretrain':
        from mmhier.datasets.class_folders import leave_out_folders
        leave_out_folders(cfg)
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise MMHierError(
            '--launcher pytorch needs the variables that torchrun '
            'sets: start with tools/dist_train.sh, '
            'tools/dist_test.sh or torchrun')
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = own_dir
    make_writable('--work-dir', cfg.work_dir)
    return cfg


def _merge_options(cfg: Config, cfg_options: dict[str, Any]) -> None:
    """Set the values of ``--cfg-options``."""
    for key in cfg_options:
        name = key.split('.')[0]
        if name in _DROPPED or (name in _RENAMED and name not in cfg):
            raise MMHierError(
                f'--cfg-options {key}: `{name}` is a key of OpenMMLab '
                f'2.x, use {_successor(name)}')
    try:
        # Merging takes `_delete_` out of it.
        cfg.merge_from_dict(deepcopy(cfg_options))
    except (KeyError, TypeError) as error:
        raise MMHierError(f'--cfg-options: {error.args[0]}') from error


def _read(path: str) -> Config:
    """Config of a file, or MMHierError."""
    if not osp.isfile(path):
        hint = '' if path.endswith('.py') else (
            ', and `mmhier configs` lists no config of this name')
        raise MMHierError(f'config file {path} does not exist{hint}')
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise MMHierError(f'cannot read config {path}: {error.msg} in line '
                          f'{error.lineno}, there or in a _base_') from error
    except ImportError as error:
        # Of custom_imports, or of a pure-Python config.
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise MMHierError(
            f'cannot import what config {path} names: {cause}. Check the '
            'spelling, install the package, or add its folder to '
            'PYTHONPATH') from error
    except (OSError, ConfigParsingError, UnicodeDecodeError) as error:
        # An unknown file type, a missing _base_, a binary file.
        raise MMHierError(f'cannot read config {path}: {error}') from error


def _refuse_legacy_keys(path: str, cfg: Config) -> None:
    legacy = [key for key in _DROPPED if key in cfg]
    legacy += [
        key for key, (successor, _) in _RENAMED.items()
        if key in cfg and successor not in cfg
    ]
    if legacy:
        renamed = '; '.join(f'{k} -> {_successor(k)}' for k in sorted(legacy))
        raise MMHierError(
            f'{path} is written for OpenMMLab 2.x, whose keys would be '
            f'ignored. Use the 3.x names: {renamed}')


def refuse_wired_types(cfg: Config) -> None:
    """Refuse model types that mmhier no longer has.

    Args:
        cfg (Config): May have no ``model``.

    Raises:
        MMHierError: Names the new type, and the keys to state with it.
    """
    model, name = cfg.get('model'), 'model'
    if not isinstance(model, dict):
        return
    if isinstance(model.get('module'), dict):  # test-time augmentation
        model, name = model['module'], 'model.module'
    kind = model.get('type')
    if isinstance(kind, str) and kind in _WIRED:
        successor, classes = _WIRED[kind]
        raise MMHierError(
            f"{name}.type='{kind}' is now '{successor}': state the "
            f'in_channels of its neck and heads, and instead of '
            f'{name}.num_classes {classes} (see CHANGELOG.md)')


def _scope_of_model(cfg: Config) -> str:
    """Package of the model's class, for a config without default_scope."""
    model = cfg.get('model')
    if not isinstance(model, dict):
        return 'mmengine'
    found = resolve_type(model.get('type'), MODELS)
    for base in getattr(found, '__mro__', ()):
        package = base.__module__.partition('.')[0]
        if package in ('mmdet', 'mmseg', 'mmpretrain'):
            return package
    return 'mmengine'


def resolve_type(cfg_type: Any, registry: Registry) -> Any:
    """Class or function that the ``type`` of a config stands for.

    Args:
        cfg_type (str | type | Callable): Name in the registry, with or
            without scope; or, in a pure-Python config, the object itself.
        registry (Registry): mmengine's registry of its kind, such as MODELS.

    Returns:
        Any: None if the registry does not know the name.
    """
    if not isinstance(cfg_type, str):
        return cfg_type
    with registry.switch_scope_and_registry(None) as found:
        return found.get(cfg_type)


def type_name(cfg_type: Any) -> str:
    """Name of a type without scope and module, such as 'MaskRCNN'.

    Args:
        cfg_type (str | type | Callable, optional): ``type`` of a config.

    Returns:
        str: '' for None.
    """
    return str(getattr(cfg_type, '__name__', cfg_type or '')).rpartition('.')[2]


def _successor(legacy_key: str) -> str:
    if legacy_key in _DROPPED:
        return _DROPPED[legacy_key]
    return _RENAMED[legacy_key][1]


def iter_datasets(dataset: Any, name: str) -> Iterator[tuple[str, ConfigDict]]:
    """Datasets that read files, below wrappers such as ConcatDataset.

    Args:
        dataset (dict | list): ``dataset`` of a dataloader, or the dataloader.
        name (str): Its key in the config, for messages.

    Yields:
        tuple[str, dict]: Dotted key and settings of each dataset.
    """
    if isinstance(dataset, (list, tuple)):
        for i, item in enumerate(dataset):
            yield from iter_datasets(item, f'{name}.{i}')
    elif isinstance(dataset, dict):
        inner = [key for key in ('dataset', 'datasets') if key in dataset]
        for key in inner:
            yield from iter_datasets(dataset[key], f'{name}.{key}')
        if not inner and 'type' in dataset:
            yield name, dataset


def iter_metrics(evaluator: Any, name: str) -> Iterator[tuple[str, dict]]:
    """Dotted key and settings of each metric of an evaluator."""
    if isinstance(evaluator, (list, tuple)):
        for i, item in enumerate(evaluator):
            yield from iter_metrics(item, f'{name}.{i}')
    elif isinstance(evaluator, dict):
        if 'metrics' in evaluator:
            yield from iter_metrics(evaluator['metrics'], f'{name}.metrics')
        else:
            yield name, evaluator


def set_data_root(cfg: Config, data_root: str) -> None:
    """Point every dataset and evaluator of a config at a folder.

    Paths below the old ``data_root`` of a dataset keep their place below the
    new one.

    Args:
        cfg (Config): Changed in place.
        data_root (str): A folder laid out as the old one.

    Raises:
        MMHierError: If a dataset states no ``data_root``, or an absolute path
            of the config lies outside of it.
    """
    old_roots: list[str] = []
    if isinstance(cfg.get('data_root'), str):
        old_roots.append(cfg.data_root)
        cfg.data_root = data_root
    for loader in DATALOADERS:
        for name, dataset in iter_datasets(cfg.get(loader), loader):
            old_root = dataset.get('data_root') or ''
            if not old_root and not old_roots:
                raise MMHierError(
                    f'{name} has no data_root, so --data-root cannot be '
                    'applied: give it one, with ann_file and data_prefix '
                    'relative to it')
            roots = [old_root] if old_root else old_roots
            for key, value in dataset.items():
                if key == 'ann_file' or key.endswith('_prefix'):
                    dataset[key] = _relocate(value, roots, '', f'{name}.{key}')
            dataset.data_root = data_root
            old_roots.append(old_root)
    for evaluator in EVALUATORS:
        for name, metric in iter_metrics(cfg.get(evaluator), evaluator):
            for key in ('ann_file', 'seg_prefix', 'img_prefix'):
                if key in metric:
                    metric[key] = _relocate(metric[key], old_roots, data_root,
                                            f'{name}.{key}')


def _relocate(value: Any, old_roots: list[str], new_root: str,
              name: str) -> Any:
    """Move the paths in `value` from an old root to `new_root`.

    A dataset joins its own root to relative paths, so `new_root` is '' there;
    an evaluator's are complete, and must lie in one of the roots.
    """
    if isinstance(value, (list, tuple)):
        return [_relocate(item, old_roots, new_root, name) for item in value]
    if isinstance(value, dict):
        return {
            key: _relocate(item, old_roots, new_root, f'{name}.{key}')
            for key, item in value.items()
        }
    if not isinstance(value, str) or not value:
        return value
    for root in old_roots:
        if not root:
            continue
        inside = osp.relpath(osp.normpath(value), osp.normpath(root))
        if not inside.startswith(osp.pardir):
            slash = '/' * value.endswith('/')
            inside = '' if inside == osp.curdir else inside + slash
            return osp.join(new_root, inside)
    if new_root or osp.isabs(value):
        raise MMHierError(
            f'{name}={value} lies outside of the data_root of the config, so '
            '--data-root cannot be applied to it: set it with --cfg-options '
            'instead')
    return value
