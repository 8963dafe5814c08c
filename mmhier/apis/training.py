"""Training from a config file."""
import os.path as osp
from collections.abc import Sequence
from glob import escape, glob
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmhier.checkpoints import read_checkpoint, resolve_checkpoint
from mmhier.datasets.data_checks import check_data
from mmhier.engine.amp import use_amp
from mmhier.engine.checkpoints import find_newest_checkpoint
from mmhier.engine.config import load_config
from mmhier.engine.pretrained import find_pretrained
from mmhier.engine.runner import build_runner, complete_runtime, set_hook
from mmhier.engine.runtime_checks import check_runtime
from mmhier.engine.tracking import use_tracker
from mmhier.errors import MMHierError, require_utf8
from mmhier.evaluation.dry_run import dry_evaluate
from mmhier.zoo import config_path


def train(config: str,
          *,
          work_dir: str | None = None,
          data_root: str | None = None,
          data_format: str | None = None,
          classes: str | Sequence[str] | None = None,
          resume: str | None = None,
          overwrite: bool = False,
          from_scratch: bool = False,
          amp: bool = False,
          amp_dtype: str | None = None,
          tf32: bool = False,
          track: str | None = None,
          auto_scale_lr: bool = False,
          no_validate: bool = False,
          seed: int | None = None,
          deterministic: bool = False,
          cfg_options: dict[str, Any] | None = None,
          launcher: str = 'none') -> Runner:
    """Train the model of a config; checkpoints and logs go to work_dir.

    So does ``train_record.json``, the record of the run.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain.
        work_dir (str, optional): See :func:`mmhier.apis.load_config`.
        data_root (str, optional): Folder for every dataset and evaluator.
            Defaults to None, the config's own.
        data_format (str, optional): See :func:`mmhier.apis.load_config`.
        classes (str | Sequence[str], optional): See
            :func:`mmhier.apis.load_config`.
        resume (str, optional): Checkpoint to go on from, or 'auto' for the
            latest in work_dir, if there is one. Defaults to None: start anew.
        overwrite (bool): Start anew in a work_dir that holds checkpoints.
            Defaults to False.
        from_scratch (bool): Start from random weights, whatever ``init_cfg``
            names. Defaults to False.
        amp (bool): Train in mixed precision. Defaults to False.
        amp_dtype (str, optional): 'float16' or 'bfloat16', implies ``amp``.
            Defaults to None: 'bfloat16' on CPUs, 'float16' elsewhere.
        tf32 (bool): Multiply float32 matrices in TF32 on GPUs that can.
            Defaults to False: torch's choice.
        track (str, optional): Tracker that also logs the run: 'tensorboard',
            'mlflow', 'wandb' or 'aim'; see
            :func:`mmhier.engine.tracking.use_tracker`. Defaults to None.
        auto_scale_lr (bool): Scale the learning rate by the total batch size
            over ``auto_scale_lr.base_batch_size``. Defaults to False.
        no_validate (bool): Leave validation out. Defaults to False.
        seed (int, optional): Defaults to None, the config's own or random.
        deterministic (bool): Use deterministic kernels only; on GPUs, models
            with operators that have none are refused. Defaults to False.
        cfg_options (dict, optional): Values of the config by dotted key.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        Runner: After training.

    Raises:
        MMHierError: If the command, the config, the data or a checkpoint cannot
            be used; almost always before training starts.
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
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise MMHierError(f'{config} has no {key}, so it cannot be trained')
    if amp or amp_dtype is not None:
        use_amp(cfg, amp_dtype)
    if tf32:
        cfg.env_cfg = dict(cfg.get('env_cfg') or {}, tf32=True)
    if track is not None:
        use_tracker(cfg, track)
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise MMHierError('--auto-scale-lr needs auto_scale_lr='
                              f'dict(base_batch_size=...) in {config}')
        cfg.auto_scale_lr.enable = True
    if no_validate:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.get('default_hooks', {}).get('checkpoint',
                                         {}).pop('save_best', None)
    if seed is not None or deterministic:
        cfg.randomness = dict(
            cfg.get('randomness') or {}, deterministic=deterministic)
        if seed is not None:
            cfg.randomness.seed = seed
    if resume is not None:
        _resume_from(cfg, resume)
    _check_start(cfg, overwrite)
    start = find_pretrained(cfg, from_scratch)
    for warning in check_runtime(cfg):
        print_log(f'warning: {warning}')
    phases = ('train', ) if cfg.get('val_cfg') is None else ('train', 'val')
    check_data(cfg, phases, keep='val' in phases)
    if 'val' in phases:
        for note in dry_evaluate(cfg, 'val', max_images=500, max_seconds=3):
            print_log(f'dry evaluation: {note}')
    complete_runtime(cfg)
    set_hook(
        cfg,
        'mmhier.TrainingRecordHook',
        config=config,
        arguments={
            k: v
            for k, v in arguments.items() if v is not None
        })
    runner = build_runner(cfg)
    runner.logger.info(start)
    runner.train()
    barrier()  # The first process writes the last checkpoint.
    return runner


def _resume_from(cfg: Config, resume: str) -> None:
    """Set the checkpoint to go on from, and the seed of its run."""
    skipped: list[str] = []
    if resume == 'auto':
        cfg.load_from, skipped = find_newest_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None
        if skipped and not cfg.resume:
            raise MMHierError(
                f'--resume: no checkpoint in {cfg.work_dir} can be gone on '
                f'from: {"; ".join(skipped)}. Start anew with --overwrite')
    else:
        require_utf8('checkpoint', resume)
        cfg.load_from, cfg.resume = resume, True
    for reason in skipped:
        print_log(f'skipped a checkpoint: {reason}')
    if cfg.resume:
        cfg.load_from = resolve_checkpoint(cfg.load_from)
        meta = read_checkpoint(cfg.load_from).get('meta', {})
        print_log(f'going on from {cfg.load_from}')
        randomness = dict(cfg.get('randomness') or {})
        if randomness.get('seed') is None:
            # Datasets are shuffled before mmengine takes over the seed.
            cfg.randomness = dict(randomness, seed=meta.get('seed'))


def _check_start(cfg: Config, overwrite: bool) -> None:
    """Check the checkpoint to start from, and the content of work_dir."""
    cfg.setdefault('resume', False)
    if cfg.get('load_from'):
        cfg.load_from = resolve_checkpoint(cfg.load_from)
    present = glob(osp.join(escape(cfg.work_dir), '*.pth'))
    if present and not cfg.resume and not overwrite:
        raise MMHierError(
            f'work_dir {cfg.work_dir} holds checkpoints of an earlier run, '
            f'such as {osp.basename(present[0])}: go on with --resume, keep '
            'them with another --work-dir, or replace them with --overwrite')
