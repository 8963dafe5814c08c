"""mmengine's runners, with the guarantees that mmhier gives."""
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mmengine.runner
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from mmhier.checkpoints.initializer import check_pretrained
from mmhier.datasets.memory import release_parsed_annotations
from mmhier.engine import build
from mmhier.errors import MMHierError, naming_full_disk
from mmhier.files import replacing
from mmhier.ops import describe_operators
from mmhier.registry import RUNNERS
from .checkpoints import load_training_checkpoint
from .config_errors import check_log_packages, naming_config_errors
from .determinism import check_deterministic
from .environment import join_cpu_processes, naming_used_port, unique_timestamp
from .fsdp import ResumableFSDPStrategy
from .geometry import keep_geometry_in_float32
from .loader import SampleLoader, is_of_lost_worker, lost_worker_error
from .resuming import (
    ConfiguredSchedule,
    check_optimizer_fits,
    resumed_facts,
)
from .seeding import EndlessIterator

# Hooks of every training and test.
_TRAINING_HOOKS = ('mmhier.CheckpointFitHook', 'mmhier.FiniteLossHook',
                   'mmhier.ExactResumeHook', 'mmhier.TrainingRecordHook')
# mmengine's hooks that mmhier's of the same name replace.
_RESUMABLE_HOOKS = ('CheckpointHook', 'EarlyStoppingHook')
# Hooks that mmengine registers unless a config sets them to None.
_MMENGINE_HOOKS = {
    'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler',
    'checkpoint'
}


class RunnerMixin:
    """Overrides that :class:`Runner` and :class:`FlexibleRunner` share.

    Files that cannot be loaded, killed workers and what of the config cannot
    be built are named in one line; checkpoints are written whole.

    Args:
        *args: See mmengine's runner.
        cfg (Config, optional): See mmengine's runner. Defaults to None.
        **kwargs: See mmengine's runner.

    Raises:
        MMHierError: If the config cannot be built.
    """
    cfg: Config
    timestamp: str
    logger: Any

    def __init__(self, *args: Any, cfg: Any = None, **kwargs: Any):
        with naming_config_errors(cfg or kwargs), naming_full_disk():
            super().__init__(  # type: ignore[call-arg]
                *args, cfg=cfg, **kwargs)
        self.logger.info(describe_operators())

    def train(self) -> nn.Module:
        """Train the model; see mmengine's runner.

        Raises:
            MMHierError: If config, data or a checkpoint cannot be used.
        """
        with self._naming_errors():
            return super().train()  # type: ignore[misc]

    def val(self) -> dict:
        """Validate the model; see :meth:`train`."""
        with self._naming_errors():
            return super().val()  # type: ignore[misc]

    def test(self) -> dict:
        """Test the model; see :meth:`train`."""
        with self._naming_errors():
            return super().test()  # type: ignore[misc]

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        with naming_config_errors(self.cfg), naming_full_disk():
            try:
                yield
            except RuntimeError as error:
                # A signal handler of torch can raise it in any line.
                if is_of_lost_worker(error):
                    raise lost_worker_error() from error
                raise

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Build a visualizer that no other run of the process shares.

        Args:
            visualizer (Visualizer | dict, optional): See mmengine's runner.
        """
        if isinstance(visualizer, dict) and 'name' in visualizer:
            name = f'{visualizer["name"]}_{self.timestamp}'
            visualizer = dict(visualizer, name=name)
        return super().build_visualizer(visualizer)  # type: ignore[misc]

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict,
                         seed: int | None = None,
                         diff_rank_seed: bool = False) -> DataLoader:
        """Build a dataloader that names files it cannot load.

        Args:
            dataloader (DataLoader | dict): See mmengine's runner.
            seed (int, optional): See mmengine's runner. Defaults to None.
            diff_rank_seed (bool): See mmengine's runner. Defaults to False.

        Raises:
            MMHierError: If there is no batch.
        """
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            # torch refuses what only worker processes have.
            dataloader = {
                k: v
                for k, v in dataloader.items()
                if k not in ('persistent_workers', 'prefetch_factor')
            }
        with naming_config_errors(dict(dataloader=dataloader)):
            built = mmengine.runner.Runner.build_dataloader(
                dataloader, seed=seed, diff_rank_seed=diff_rank_seed)
        release_parsed_annotations(built.dataset)
        if not (isinstance(built.dataset, IterableDataset) or len(built)):
            raise MMHierError(
                f'a dataloader of {len(built.dataset)} images has no batch: '
                'set drop_last=False, or a smaller batch_size')
        if isinstance(built, SampleLoader):
            return built
        return SampleLoader.like(built)

    def build_train_loop(self, loop: Any) -> Any:
        """Build a training loop that can be resumed exactly.

        Args:
            loop (BaseLoop | dict): See mmengine's runner.
        """
        loop = super().build_train_loop(loop)  # type: ignore[misc]
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = EndlessIterator(loop)
        return loop

    def save_checkpoint(self,
                        out_dir: str,
                        filename: str,
                        file_client_args: dict | None = None,
                        **kwargs: Any) -> None:
        """Save a checkpoint that is there whole or not at all.

        Args:
            out_dir (str): Folder.
            filename (str): Name in the folder.
            file_client_args (dict, optional): Of a backend other than local
                files, which is left alone. Defaults to None.
            **kwargs: See mmengine's runner.

        Raises:
            MMHierError: If it cannot be written, as when the disk is full.
        """

        def save(name: str) -> None:
            super(RunnerMixin, self).save_checkpoint(  # type: ignore[misc]
                out_dir, name, file_client_args, **kwargs)

        is_local = not (file_client_args or kwargs.get('backend_args')
                        or '://' in str(out_dir))
        if not (is_local and is_main_process() and self._writes_one_file()):
            save(filename)
            return
        path = osp.join(out_dir, filename)
        try:
            with replacing(path) as partial:
                save(partial.name)
        except OSError as error:
            raise MMHierError(
                f'{path} cannot be written: {error.strerror}. Earlier '
                'checkpoints are kept: make room and go on with '
                '--resume') from error

    def _writes_one_file(self) -> bool:
        return True


@RUNNERS.register_module()
class Runner(RunnerMixin, mmengine.runner.Runner):
    """mmengine's Runner with the guarantees of :class:`RunnerMixin`.

    Checkpoints are read without executing code. Processes of torchrun work on
    CPUs as well.
    """
    _timestamp: str
    _resumed: dict

    def setup_env(self, env_cfg: dict) -> None:
        """Set up processes, precision and the timestamp of the run.

        Args:
            env_cfg (dict): See mmengine's runner; ``tf32=True`` multiplies
                float32 matrices in TF32 on GPUs that can.

        Raises:
            MMHierError: If the port of the processes is in use.
        """
        if env_cfg.get('tf32'):
            torch.set_float32_matmul_precision('high')
        with naming_used_port():
            join_cpu_processes(self.launcher)
            super().setup_env(env_cfg)
        self._timestamp = unique_timestamp(self._timestamp)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build a model by :func:`mmhier.engine.build.build_model`.

        Args:
            model (nn.Module | dict): A model or its config.
        """
        if isinstance(model, nn.Module):
            keep_geometry_in_float32(model)
            return model
        return build.build_model(Config(dict(model=model)))

    def train(self) -> nn.Module:
        """Train the model; see mmengine's runner.

        Raises:
            MMHierError: If config, data or a checkpoint cannot be used, or
                deterministic kernels were asked for that CUDA lacks.
        """
        check_deterministic(self.model, get_device())
        return super().train()

    def _init_model_weights(self) -> None:
        check_pretrained(self.model)
        super()._init_model_weights()

    def wrap_model(self, model_wrapper_cfg: dict | None,
                   model: nn.Module) -> nn.Module:
        """Wrap a model for several processes, on CPUs too.

        Args:
            model_wrapper_cfg (dict, optional): See mmengine's runner.
            model (nn.Module): Not wrapped yet.
        """
        if (self.distributed and get_device() == 'cpu'
                and not is_model_wrapper(model)):
            model_wrapper_cfg = dict(
                dict(
                    type='MMDistributedDataParallel',
                    device_ids=None,
                    broadcast_buffers=False,
                    find_unused_parameters=self.cfg.get(
                        'find_unused_parameters', False)),
                **(model_wrapper_cfg or {}))
        return super().wrap_model(model_wrapper_cfg, model)

    def resume(self,
               filename: str,
               resume_optimizer: bool = True,
               resume_param_scheduler: bool = True,
               map_location: Any = 'default') -> None:
        """Resume a training; its schedule is that of the config.

        Args:
            filename (str): Checkpoint.
            resume_optimizer (bool): See mmengine's runner. Defaults to True.
            resume_param_scheduler (bool): See mmengine's runner.
                Defaults to True.
            map_location (Any): See mmengine's runner. Defaults to 'default'.

        Raises:
            MMHierError: If the checkpoint is of another optimizer, or its
                schedule cannot be repeated with the settings of the config.
        """
        schedule = ConfiguredSchedule(self)
        super().resume(filename, resume_optimizer, resume_param_scheduler,
                       map_location)
        schedule.take_over(filename, self._resumed)

    def load_checkpoint(self,
                        filename: str,
                        map_location: Any = 'cpu',
                        strict: bool = False,
                        revise_keys: list = [(r'^module.', '')]) -> dict:
        """Load a checkpoint without executing code in it.

        Args:
            filename (str): See
                :func:`mmhier.checkpoints.sources.load_checkpoint`.
            map_location (Any): As in ``torch.load``. Defaults to 'cpu'.
            strict (bool): Whether names must match. Defaults to False.
            revise_keys (list): Pairs of a pattern in names and what replaces
                it. Defaults to removing 'module.'.

        Returns:
            dict: Content.

        Raises:
            MMHierError: If it cannot be found or read, or does not fit.
        """
        checkpoint = load_training_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model
        if is_model_wrapper(model):
            model = model.module
        _load_checkpoint_to_model(
            model, checkpoint, strict, revise_keys=revise_keys)
        self._has_loaded = True
        if self._resume:
            check_optimizer_fits(self.optim_wrapper, checkpoint)
            self._resumed = resumed_facts(checkpoint)
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint


@RUNNERS.register_module()
class FlexibleRunner(RunnerMixin, mmengine.runner.FlexibleRunner):
    """mmengine's FlexibleRunner with the guarantees of :class:`RunnerMixin`.

    It trains with :class:`ResumableFSDPStrategy` and subclasses.
    """

    def build_strategy(self, strategy: Any = None, **kwargs: Any) -> Any:
        """Build the strategy.

        Args:
            strategy (BaseStrategy | dict, optional): See mmengine's runner.
            **kwargs: See mmengine's runner.

        Raises:
            MMHierError: If the strategy is not one of mmhier.
        """
        if strategy is not None:
            strategy = super().build_strategy(strategy, **kwargs)
        if not isinstance(strategy, ResumableFSDPStrategy):
            raise MMHierError(
                'mmhier.FlexibleRunner needs strategy=dict(type='
                "'mmhier.ResumableFSDPStrategy'), which reads checkpoints "
                'without executing code; without FSDP use '
                "runner_type='mmhier.Runner'")
        return strategy

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume a training; see :meth:`Runner.resume`.

        Args:
            filename (str): Checkpoint.
            *args: See mmengine's runner.
            **kwargs: See mmengine's runner.

        Raises:
            MMHierError: See :meth:`Runner.resume`.
        """
        schedule = ConfiguredSchedule(self)
        super().resume(filename, *args, **kwargs)
        schedule.take_over(filename, self.strategy.resumed)

    def _writes_one_file(self) -> bool:
        return self.strategy.writes_one_file


def complete_runtime(cfg: Config) -> None:
    """Add the runner and the hooks of mmhier that a config lacks.

    ``custom_hooks`` of a config replace those of its bases.

    Args:
        cfg (Config): Changed in place.

    Raises:
        MMHierError: If the config names a runner that is not one of mmhier,
            or logs by a package that is not installed.
    """
    check_log_packages(cfg)
    kind = cfg.get('runner_type') or 'Runner'
    own = {'Runner': 'mmhier.Runner', 'FlexibleRunner': 'mmhier.FlexibleRunner'}
    if isinstance(kind, str):
        cfg.runner_type = kind = own.get(kind.removeprefix('mmengine.'), kind)
        with RUNNERS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, RunnerMixin)):
        raise MMHierError(
            f'runner_type={cfg.runner_type} is no runner of mmhier, so '
            'checkpoints would be unpickled and trainings not resumed exactly: '
            'derive it from mmhier.engine.runner.Runner')
    for name in _TRAINING_HOOKS:
        set_hook(cfg, name)
    hooks = cfg.default_hooks = cfg.get('default_hooks') or {}
    hooks.setdefault('checkpoint', dict(interval=1))
    for name in set(hooks) - _MMENGINE_HOOKS:
        if hooks[name] is None:  # mmengine asserts that it is not
            del hooks[name]
    for hook in (*hooks.values(), *(cfg.get('custom_hooks') or ())):
        if isinstance(hook, dict):
            kind = _type_name(hook).removeprefix('mmengine.')
            if kind in _RESUMABLE_HOOKS:
                hook['type'] = f'mmhier.{kind}'
    if hooks['checkpoint'] is not None:
        hooks['checkpoint'].setdefault('type', 'mmhier.CheckpointHook')


def set_hook(cfg: Config, name: str, **arguments: Any) -> None:
    """Set arguments of a custom hook, which is added where it is missing.

    Args:
        cfg (Config): Changed in place.
        name (str): Its type, such as 'mmhier.ExactResumeHook'.
        **arguments: Arguments of the hook.
    """
    hooks = list(cfg.get('custom_hooks') or ())
    for hook in hooks:
        if _type_name(hook) == name:
            hook.update(arguments)
            break
    else:
        hooks.append(dict(type=name, **arguments))
    cfg.custom_hooks = hooks


def _type_name(hook: Any) -> str:
    """Scoped name of the type of a hook in a config."""
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    if isinstance(kind, type):
        return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return str(kind)


def build_runner(cfg: Config) -> Any:
    """Build the runner of a config; see :func:`complete_runtime`.

    Args:
        cfg (Config): Changed in place where the runtime is not complete.

    Returns:
        Runner | FlexibleRunner: Before training or testing.

    Raises:
        MMHierError: If the config cannot be built.
    """
    complete_runtime(cfg)
    return RUNNERS.build(cfg)
