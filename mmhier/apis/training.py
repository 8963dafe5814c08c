"""Training from a config file."""
import atexit
import os.path as osp
from collections.abc import Sequence
from glob import escape, glob
from itertools import count
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmhier.checkpoints import find_checkpoint, read_checkpoint
from mmhier.datasets.data_checks import check_data
from mmhier.engine.amp import use_amp
from mmhier.engine.checkpoints import CheckpointFitHook, safe_checkpoints
from mmhier.engine.config import load_config
from mmhier.engine.hooks import ExactResumeHook, FiniteLossHook
from mmhier.engine.loading_errors import named_loading_errors
from mmhier.engine.resuming import (
    find_newest_checkpoint,
    save_whole_checkpoints,
)
from mmhier.errors import MMHierError, mistakes_as_user_errors, require_utf8
from mmhier.leaderboard.recording import TrainingRecordHook
from mmhier.ops import describe_operators
from mmhier.zoo import config_path

_RUNS = count(1)


def train(config: str,
          *,
          work_dir: str | None = None,
          data_root: str | None = None,
          classes: str | Sequence[str] | None = None,
          resume: str | None = None,
          overwrite: bool = False,
          amp: bool = False,
          amp_dtype: str | None = None,
          auto_scale_lr: bool = False,
          no_validate: bool = False,
          seed: int | None = None,
          deterministic: bool = False,
          cfg_options: dict[str, Any] | None = None,
          launcher: str = 'none') -> Runner:
    """Train the model of a config; checkpoints and logs go to work_dir.

    So does ``train_record.json``, which says what the run was.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain.
        work_dir (str, optional): See :func:`mmhier.apis.load_config`.
        data_root (str, optional): Folder for every dataset and evaluator.
            Defaults to None, the config's own.
        classes (str | Sequence[str], optional): See
            :func:`mmhier.apis.load_config`.
        resume (str, optional): Checkpoint to go on from, or 'auto' for the
            latest in work_dir, if there is one. Defaults to None: start anew.
        overwrite (bool): Start anew in a work_dir that holds checkpoints.
            Defaults to False.
        amp (bool): Train in mixed precision. Defaults to False.
        amp_dtype (str, optional): 'float16' or 'bfloat16'. Defaults to None:
            'bfloat16' on CPUs, 'float16' elsewhere.
        auto_scale_lr (bool): Scale the learning rate by the total batch size
            over ``auto_scale_lr.base_batch_size``. Defaults to False.
        no_validate (bool): Leave validation out. Defaults to False.
        seed (int, optional): Defaults to None, the config's own or random.
        deterministic (bool): Use deterministic cuDNN kernels.
            Defaults to False.
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
        classes=classes,
        cfg_options=cfg_options,
        launcher=launcher)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise MMHierError(f'{config} has no {key}, so it cannot be trained')
    if amp or amp_dtype is not None:
        use_amp(cfg, amp_dtype)
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
    phases = ('train', ) if cfg.get('val_cfg') is None else ('train', 'val')
    check_data(cfg, phases)
    with (safe_checkpoints(), mistakes_as_user_errors(),
          named_loading_errors()):
        runner = build_runner(cfg)
        save_whole_checkpoints(runner)
        runner.register_hook(CheckpointFitHook(complete=cfg.resume))
        runner.register_hook(FiniteLossHook())
        runner.register_hook(ExactResumeHook())
        runner.register_hook(TrainingRecordHook(cfg, config, arguments))
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
        with mistakes_as_user_errors():
            cfg.load_from = find_checkpoint(cfg.load_from)
            meta = read_checkpoint(cfg.load_from).get('meta', {})
        print_log(f'going on from {cfg.load_from}')
        randomness = dict(cfg.get('randomness') or {})
        if randomness.get('seed') is None:
            # Datasets are shuffled before mmengine takes over the seed.
            cfg.randomness = dict(randomness, seed=meta.get('seed'))


def _check_start(cfg: Config, overwrite: bool) -> None:
    """Check the checkpoint to start from, and what work_dir holds."""
    cfg.setdefault('resume', False)
    if cfg.get('load_from'):
        with mistakes_as_user_errors():
            cfg.load_from = find_checkpoint(cfg.load_from)
    present = glob(osp.join(escape(cfg.work_dir), '*.pth'))
    if present and not cfg.resume and not overwrite:
        raise MMHierError(
            f'work_dir {cfg.work_dir} holds checkpoints of an earlier run, '
            f'such as {osp.basename(present[0])}: go on with --resume, keep '
            'them with another --work-dir, or replace them with --overwrite')


def build_runner(cfg: Config) -> Runner:
    """Runner of a config, with a log line on the operators in use.

    Processes of torchrun work on CPUs as well.
    """
    if cfg.launcher == 'pytorch' and get_device() == 'cpu':
        if not torch.distributed.is_initialized():
            # mmengine would give each process a CUDA device.
            torch.distributed.init_process_group('gloo')
            # Its threads would end a process that exits with them by SIGABRT.
            atexit.register(torch.distributed.destroy_process_group)
        unused = cfg.get('find_unused_parameters', False)
        cfg.model_wrapper_cfg = dict(
            dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=unused),
            **(cfg.get('model_wrapper_cfg') or {}))
    run = next(_RUNS)
    if run > 1:
        # mmengine would hand on what an earlier run built by the same name,
        # such as a visualizer with its folder. Its own names tell seconds.
        name = cfg.get('experiment_name') or osp.basename(cfg.filename)
        cfg.experiment_name = f'{name}_{run}'
        if 'name' in (cfg.get('visualizer') or {}):
            cfg.visualizer.name += f'_{run}'
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    runner.logger.info(describe_operators())
    return runner
