"""Testing a checkpoint with a config file."""
import os.path as osp
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.logging import print_log
from mmhier.checkpoints import official_name, resolve_checkpoint
from mmhier.datasets.data_checks import check_data
from mmhier.engine.amp import use_test_amp
from mmhier.engine.config import iter_datasets, load_config
from mmhier.engine.config_errors import naming_config_errors
from mmhier.engine.runner import build_runner, complete_runtime, set_hook
from mmhier.engine.tracking import use_tracker
from mmhier.errors import MMHierError, naming_full_disk, require_utf8
from mmhier.evaluation.dry_run import dry_evaluate
from mmhier.evaluation.per_class import collect_per_class, keep_per_class
from mmhier.files import make_writable, replacing, require_writable
from mmhier.registry import HOOKS
from mmhier.zoo import config_path


def test(config: str,
         checkpoint: str = 'official',
         *,
         work_dir: str | None = None,
         data_root: str | None = None,
         data_format: str | None = None,
         classes: str | Sequence[str] | None = None,
         out: str | None = None,
         overwrite: bool = False,
         show: bool = False,
         show_dir: str | None = None,
         wait_time: float = 2.,
         tta: bool = False,
         amp: bool = False,
         amp_dtype: str | None = None,
         tf32: bool = False,
         track: str | None = None,
         cfg_options: dict[str, Any] | None = None,
         launcher: str = 'none') -> dict[str, float]:
    """Evaluate a checkpoint on the test set of a config.

    Writes a record of the run to ``test_record_<time>.json`` in work_dir.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain.
        checkpoint (str): Weights of the model of the config: a path, a URL, a
            name, or 'official'. Defaults to 'official'.
        work_dir (str, optional): See :func:`mmhier.apis.load_config`.
        data_root (str, optional): Folder for every dataset and evaluator.
            Defaults to None, the config's own.
        data_format (str, optional): See :func:`mmhier.apis.load_config`.
        classes (str | Sequence[str], optional): See
            :func:`mmhier.apis.load_config`.
        out (str, optional): Pickle file for the predictions, masks of
            instances as RLE. Defaults to None.
        overwrite (bool): Replace ``out`` if it exists. Defaults to False.
        show (bool): Show predictions in a window. Defaults to False.
        show_dir (str, optional): Folder for pictures of the predictions.
            Defaults to None.
        wait_time (float): Seconds for which ``show`` shows each picture.
            Defaults to 2.
        tta (bool): Test with the augmentations in ``tta_model`` and
            ``tta_pipeline`` of the config. Defaults to False.
        amp (bool): Run the model in mixed precision. Defaults to False.
        amp_dtype (str, optional): 'float16' or 'bfloat16', implies ``amp``.
            Defaults to None: 'bfloat16' on CPUs, 'float16' elsewhere.
        tf32 (bool): See :func:`mmhier.apis.train`. Defaults to False.
        track (str, optional): See :func:`mmhier.apis.train`. Defaults to None.
        cfg_options (dict, optional): Values of the config by dotted key.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        dict[str, float]: Metrics by name.

    Raises:
        MMHierError: If the command, the config, the data or the checkpoint
            cannot be used.
    """
    arguments = dict(locals())
    config = config_path(config)
    cfg = load_config(
        config,
        work_dir=work_dir,
        data_root=data_root,
        data_format=data_format,
        classes=classes,
        cfg_options=cfg_options,
        launcher=launcher)
    if amp or amp_dtype is not None:
        use_test_amp(cfg, amp_dtype)
    if tf32:
        cfg.env_cfg = dict(cfg.get('env_cfg') or {}, tf32=True)
    if track is not None:
        use_tracker(cfg, track)
    if out is not None:
        require_writable('--out', out, overwrite, ('.pkl', '.pickle'))
    if show or show_dir is not None:
        _draw_predictions(cfg, show, show_dir, wait_time)
    metrics, _ = run_test(
        cfg, config, checkpoint, out=out, tta=tta, arguments=arguments)
    return metrics


def run_test(cfg: Config,
             config: str,
             checkpoint: str,
             *,
             out: str | None = None,
             tta: bool = False,
             arguments: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """Evaluate a checkpoint with a config that was read, and record it.

    Args:
        cfg (Config): Made by :func:`mmhier.apis.load_config`.
        config (str): Its path, for messages and the record.
        checkpoint (str): See :func:`test`.
        out (str, optional): See :func:`test`; replaced if it exists.
        tta (bool): See :func:`test`.
        arguments (dict): Arguments of the test, for the record.

    Returns:
        tuple[dict[str, float], EvaluationRecord]: Metrics by name, and the
        record, None in all processes but the first.

    Raises:
        MMHierError: See :func:`test`.
    """
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise MMHierError(f'{config} has no {key}, so it cannot be tested')
    require_utf8('checkpoint', checkpoint)
    checkpoint = resolve_checkpoint(official_name(checkpoint, config))
    cfg.load_from = checkpoint
    cfg.resume = False
    recorder = HOOKS.build(
        dict(
            type='mmhier.EvaluationRecordHook',
            cfg=deepcopy(cfg),
            config=config,
            checkpoint=checkpoint,
            tta=tta,
            arguments=arguments))
    for key in ('tta_model', 'tta_pipeline') if tta else ():
        if key not in cfg:
            raise MMHierError(f'--tta needs {key} in the config')
    check_data(cfg, ('test', ), keep=True)
    for note in dry_evaluate(cfg, 'test', max_images=500, max_seconds=3):
        print_log(f'dry evaluation: {note}')
    if tta:
        _use_tta(cfg)
    if cfg.get('default_scope') == 'mmseg':
        keep_per_class(cfg.test_evaluator)
    complete_runtime(cfg)
    set_hook(cfg, 'mmhier.CheckpointFitHook', complete=True)
    with naming_config_errors(cfg), naming_full_disk(), ExitStack() as stack:
        runner = build_runner(cfg)
        runner.register_hook(recorder)
        if out is not None:
            partial = out
            if is_main_process():
                partial = str(stack.enter_context(replacing(out)))
            runner.test_evaluator.metrics.append(
                _dump_metric(cfg.get('default_scope'), partial))
        recorder.announce()
        try:
            metrics = runner.test()
            per_class = collect_per_class(runner.test_evaluator.metrics)
            record = recorder.finish(runner, metrics, per_class)
        finally:
            recorder.discard()
    return metrics, record


def _dump_metric(scope: str | None, path: str) -> DumpResults:
    """Metric that writes predictions; mmdet's packs the masks, ours for
    segmentors leaves the logits out."""
    if scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults
        return DumpDetResults(out_file_path=path)
    if scope == 'mmseg':
        from mmhier.evaluation.segmentation_dump import DumpSegResults
        return DumpSegResults(out_file_path=path)
    return DumpResults(out_file_path=path)


def _draw_predictions(cfg: Config, show: bool, show_dir: str | None,
                      wait_time: float) -> None:
    """Replace the config's visualization hook by PredictionPicturesHook."""
    scope = cfg.get('default_scope')
    visualizer = dict(
        mmdet='DetLocalVisualizer',
        mmseg='SegLocalVisualizer',
        mmpretrain='UniversalVisualizer').get(str(scope))
    if visualizer is None or cfg.get('visualizer') is None:
        raise MMHierError('--show and --show-dir need a visualizer in the '
                          f"config, such as dict(type='"
                          f"{visualizer or 'DetLocalVisualizer'}')")
    drawing: dict[str, Any] = {}
    if scope == 'mmdet':
        hook = (cfg.get('default_hooks') or {}).get('visualization') or {}
        drawing['pred_score_thr'] = hook.get('score_thr', 0.3)
    if show_dir is not None:
        show_dir = osp.abspath(show_dir)
        make_writable('--show-dir', show_dir)
    (cfg.get('default_hooks') or {}).pop('visualization', None)
    set_hook(
        cfg,
        'mmhier.PredictionPicturesHook',
        show=show,
        show_dir=show_dir,
        wait_time=wait_time,
        **drawing)


def _use_tta(cfg: Config) -> None:
    """Wrap the model and replace the test pipeline for augmentations."""
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for _, dataset in iter_datasets(cfg.test_dataloader, 'test_dataloader'):
        dataset.pipeline = cfg.tta_pipeline
