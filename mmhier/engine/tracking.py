"""Experiment tracking by mmengine's visualizer backends."""
import os
import os.path as osp
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmhier.errors import MMHierError

TRACKERS = ('tensorboard', 'mlflow', 'wandb', 'aim')
# Suffixes of the files in work_dir that MLflow stores with a run.
_ARTIFACTS = ('.py', '.log', 'scalars.json', '_record.json')
# Keys of the config that MLflow logs as parameters.
_PARAMETERS = ('train_cfg', 'optim_wrapper', 'param_scheduler', 'randomness')


def use_tracker(cfg: Config, name: str) -> None:
    """Add a tracker to the visualizer of a config.

    Runs are named after work_dir. TensorBoard writes to the vis_data folder of
    the run, MLflow to mlflow.db and mlflow/ in work_dir unless
    MLFLOW_TRACKING_URI names a server; Weights & Biases logs to the project
    WANDB_PROJECT, by default mmhier, Aim to .aim in the current folder.

    Args:
        cfg (Config): With ``work_dir``; changed in place.
        name (str): 'tensorboard', 'mlflow', 'wandb' or 'aim'.

    Raises:
        MMHierError: If its package is not installed.
    """
    if find_spec(name) is None:
        raise MMHierError(f'--track {name} needs {name}, which is not '
                          f'installed: run pip install "mmhier[{name}]"')
    backend = _backend(cfg, name)
    visualizer = cfg.get('visualizer')
    if visualizer is None:
        visualizer = dict(type='Visualizer')
    present = list(
        visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if not any(
            str(entry['type']).endswith(backend['type']) for entry in present):
        present.append(backend)
    cfg.visualizer = dict(visualizer, vis_backends=present)


def _backend(cfg: Config, name: str) -> dict[str, Any]:
    """Config of mmengine's backend."""
    run = osp.basename(osp.abspath(cfg.work_dir))
    if name == 'tensorboard':
        return dict(type='TensorboardVisBackend')
    if name == 'mlflow':
        folder = Path(cfg.work_dir).absolute()
        server = os.environ.get('MLFLOW_TRACKING_URI')
        return dict(
            type='MLflowVisBackend',
            exp_name=run,
            tracking_uri=server or f'sqlite:///{folder / "mlflow.db"}',
            artifact_location=(None if server else
                               (folder / 'mlflow').as_uri()),
            artifact_suffix=_ARTIFACTS,
            tracked_config_keys=[key for key in _PARAMETERS if key in cfg])
    if name == 'wandb':
        return dict(
            type='WandbVisBackend',
            init_kwargs=dict(
                project=os.environ.get('WANDB_PROJECT', 'mmhier'), name=run))
    return dict(type='AimVisBackend', init_kwargs=dict(experiment=run))
