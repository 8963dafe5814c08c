"""Predict on images without annotations and package for a server."""
import os.path as osp
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import load
from mmhier.apis.testing import _use_tta
from mmhier.checkpoints import resolve_checkpoint
from mmhier.datasets.data_checks import check_data
from mmhier.engine.amp import use_test_amp
from mmhier.engine.config import (
    iter_datasets,
    iter_metrics,
    load_config,
    type_name,
)
from mmhier.engine.runner import build_runner, complete_runtime, set_hook
from mmhier.errors import MMHierError, naming_full_disk
from mmhier.files import require_writable
from mmhier.leaderboard.ade20k_submission import (
    ade20k_package_name,
    read_image_sizes,
    write_ade20k_package,
)
from mmhier.leaderboard.coco_submission import (
    coco_package_name,
    read_image_list,
    write_coco_package,
)
from mmhier.leaderboard.packages import (
    PackageSummary,
    staging_folder,
    staging_path,
)

# Below the data root of COCO and of ADE20K.
TEST_DEV_LIST = 'annotations/image_info_test-dev2017.json'
TESTING_DIR = 'images/testing'


def submit_coco(config: str,
                checkpoint: str,
                *,
                tasks: Sequence[str] | None = None,
                image_list: str | None = None,
                image_dir: str | None = None,
                name: str | None = None,
                out_dir: str | None = None,
                overwrite: bool = False,
                work_dir: str | None = None,
                data_root: str | None = None,
                tta: bool = False,
                amp: bool = False,
                amp_dtype: str | None = None,
                cfg_options: dict[str, Any] | None = None,
                launcher: str = 'none') -> list[PackageSummary]:
    """Detect objects and package them for the COCO server.

    The model runs once. Each task has a package in a folder of its name,
    because the server takes only one file name for both.

    Args:
        config (str): Config file for mmdet.
        checkpoint (str): Weights of the model of the config.
        tasks (Sequence[str], optional): 'bbox', 'segm' or both. Defaults to
            None, those evaluated by the config.
        image_list (str, optional): COCO json with "images" and "categories".
            Defaults to None, annotations/image_info_test-dev2017.json below
            the data root.
        image_dir (str, optional): Folder of these images. Defaults to None,
            test2017 below the data root, or the folder named by the list,
            such as val2017 for instances_val2017.json.
        name (str, optional): Of the method. Defaults to None, the name of
            the config.
        out_dir (str, optional): Defaults to None, submissions/ in work_dir.
        overwrite (bool): Replace packages. Defaults to False.
        work_dir (str, optional): See :func:`mmhier.apis.load_config`.
        data_root (str, optional): Folder of the data. Defaults to None, that
            of the config.
        tta (bool): Test with the augmentations in ``tta_model`` and
            ``tta_pipeline`` of the config. Defaults to False.
        amp (bool): Run the model in mixed precision. Defaults to False.
        amp_dtype (str, optional): 'float16' or 'bfloat16', implies ``amp``.
            Defaults to None: 'bfloat16' on CPUs, 'float16' elsewhere.
        cfg_options (dict, optional): Values of the config by dotted key.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        list[PackageSummary]: Of each package; empty in all processes but the
        first.

    Raises:
        MMHierError: If the command, the config, the data or the checkpoint
            cannot be used, or the package would be refused.
    """
    cfg = _load(config, 'mmdet', work_dir, data_root, cfg_options, launcher)
    if amp or amp_dtype is not None:
        use_test_amp(cfg, amp_dtype)
    dataset = _test_dataset(cfg, config)
    tasks = tasks or _evaluated_tasks(cfg)
    image_list, image_dir, testset = _find_coco_images(dataset, image_list,
                                                       image_dir)
    images = read_image_list(image_list)
    package_name = coco_package_name(testset, name or Path(config).stem)
    out = Path(out_dir or osp.join(cfg.work_dir, 'submissions'))
    targets = {task: out / task / package_name for task in tasks}
    for target in targets.values():
        require_writable('package', target, overwrite)
    staged = out / 'predictions'
    prefix = staging_path(staged) / 'results'
    cfg.test_dataloader.dataset = dict(
        type='CocoDataset',
        ann_file=osp.abspath(image_list),
        data_prefix=dict(img=osp.join(osp.abspath(image_dir), '')),
        metainfo=dataset.get('metainfo'),
        pipeline=dataset.pipeline,
        test_mode=True)
    cfg.test_evaluator = dict(
        type='CocoMetric',
        ann_file=image_list,
        metric=list(tasks),
        format_only=True,
        outfile_prefix=str(prefix))

    def package() -> list[PackageSummary]:
        summaries = []
        for task, target in targets.items():
            path = f'{prefix}.{task}.json'
            if not osp.isfile(path):
                raise MMHierError(
                    f'{config} predicts no masks: use --task bbox')
            summaries.append(
                write_coco_package(load(path), target, images, task, overwrite))
        return summaries

    return _run(cfg, checkpoint, tta, staged, package)


def _find_coco_images(dataset: ConfigDict, image_list: str | None,
                      image_dir: str | None) -> tuple[str, str, str]:
    """Image list, image folder and name of the test set."""
    root = dataset.get('data_root') or ''
    image_list = image_list or osp.join(root, TEST_DEV_LIST)
    testset = re.sub('^(image_info|instances)_', '', Path(image_list).stem)
    folder = 'test2017' if testset.startswith('test') else testset
    image_dir = image_dir or osp.join(root, folder)
    _check_exists('image list', image_list, '--image-list JSON')
    _check_exists('image folder', image_dir, '--image-dir DIR')
    return image_list, image_dir, testset


def submit_ade20k(config: str,
                  checkpoint: str,
                  *,
                  image_dir: str | None = None,
                  name: str | None = None,
                  out_dir: str | None = None,
                  overwrite: bool = False,
                  work_dir: str | None = None,
                  data_root: str | None = None,
                  tta: bool = False,
                  amp: bool = False,
                  amp_dtype: str | None = None,
                  cfg_options: dict[str, Any] | None = None,
                  launcher: str = 'none') -> list[PackageSummary]:
    """Label the pixels of images and package them for the ADE20K server.

    Args:
        config (str): Config file for mmseg, of a model with 150 classes.
        checkpoint (str): Weights of the model of the config.
        image_dir (str, optional): Folder of the images. Defaults to None,
            images/testing below the data root.
        name (str, optional): See :func:`submit_coco`.
        out_dir (str, optional): See :func:`submit_coco`.
        overwrite (bool): Replace a package. Defaults to False.
        work_dir (str, optional): See :func:`mmhier.apis.load_config`.
        data_root (str, optional): See :func:`submit_coco`.
        tta (bool): See :func:`submit_coco`.
        amp (bool): See :func:`submit_coco`.
        amp_dtype (str, optional): See :func:`submit_coco`.
        cfg_options (dict, optional): Values of the config by dotted key.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        list[PackageSummary]: Of the package; empty in all processes but the
        first.

    Raises:
        MMHierError: See :func:`submit_coco`.
    """
    cfg = _load(config, 'mmseg', work_dir, data_root, cfg_options, launcher)
    if amp or amp_dtype is not None:
        use_test_amp(cfg, amp_dtype)
    dataset = _test_dataset(cfg, config)
    root = dataset.get('data_root') or ''
    image_dir = image_dir or osp.join(root, TESTING_DIR)
    _check_exists('image folder', image_dir, '--image-dir DIR')
    sizes = read_image_sizes(image_dir)
    target = Path(out_dir or osp.join(cfg.work_dir, 'submissions'))
    target /= ade20k_package_name(
        Path(image_dir).resolve().name, name or Path(config).stem)
    require_writable('package', target, overwrite)
    # IoUMetric undoes reduce_zero_label by adding 1.
    dataset.update(
        data_root=None,
        data_prefix=dict(img_path=osp.abspath(image_dir)),
        reduce_zero_label=True,
        test_mode=True)
    cfg.test_dataloader.dataset = dataset
    staged = target.parent / 'predictions'
    label_folder = staging_path(staged) / 'labels'
    cfg.test_evaluator = dict(
        type='IoUMetric', format_only=True, output_dir=str(label_folder))

    def package() -> list[PackageSummary]:
        return [write_ade20k_package(label_folder, target, sizes, overwrite)]

    return _run(cfg, checkpoint, tta, staged, package)


def _load(config: str, scope: str, work_dir: str | None, data_root: str | None,
          cfg_options: dict[str, Any] | None, launcher: str) -> Config:
    cfg = load_config(
        config,
        work_dir=work_dir,
        data_root=data_root,
        cfg_options=cfg_options,
        launcher=launcher)
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise MMHierError(f'{config} has no {key}, so it cannot be tested')
    if cfg.get('default_scope') != scope:
        raise MMHierError(
            f'{config} is a config for {cfg.get("default_scope")},'
            f' but this server takes results of {scope}')
    return cfg


def _test_dataset(cfg: Config, config: str) -> ConfigDict:
    """Settings of the only test dataset."""
    found = list(iter_datasets(cfg.test_dataloader, 'test_dataloader'))
    if len(found) != 1:
        raise MMHierError(
            f'{config} tests {len(found)} datasets, but a package '
            'takes one: set test_dataloader.dataset')
    return found[0][1]


def _evaluated_tasks(cfg: Config) -> list[str]:
    """'bbox', 'segm' or both, as the config evaluates."""
    tasks: set[str] = set()
    for _, metric in iter_metrics(cfg.test_evaluator, 'test_evaluator'):
        kinds = metric.get('metric', ())
        tasks.update([kinds] if isinstance(kinds, str) else kinds)
    return [task for task in ('bbox', 'segm') if task in tasks] or ['bbox']


def _check_exists(kind: str, path: str, option: str) -> None:
    if not osp.exists(path):
        raise MMHierError(f'{kind} {path} does not exist: name yours with '
                          f'{option}, or its data root with --data-root DIR')


def _without_annotations(pipeline: Sequence) -> list:
    """A pipeline, nested or not, that loads no annotations."""
    kept = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            step = _without_annotations(step)
            if not step:
                continue
        elif re.search(r'Load\w*Annotations$', type_name(step['type'])):
            continue
        elif 'transforms' in step:
            step = dict(
                step, transforms=_without_annotations(step['transforms']))
        kept.append(step)
    return kept


def _run(cfg: Config, checkpoint: str, tta: bool, staged: Path,
         package: Callable[[], list[PackageSummary]]) -> list[PackageSummary]:
    """Predict into the staging folder of `staged`, and package from it."""
    cfg.load_from = resolve_checkpoint(checkpoint)
    cfg.resume = False
    if tta:
        _use_tta(cfg)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = _without_annotations(dataset.pipeline)
    check_data(cfg, ('test', ))
    complete_runtime(cfg)
    set_hook(cfg, 'mmhier.CheckpointFitHook', complete=True)
    with naming_full_disk():
        runner = build_runner(cfg)
        with staging_folder(staged) if is_main_process() else nullcontext():
            barrier()
            runner.test()
            # All processes write label maps.
            barrier()
            return package() if is_main_process() else []
