"""Training with the model spread over the processes."""
import os.path as osp
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, infer_launcher, is_distributed
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from mmhier.checkpoints.initializer import check_pretrained
from mmhier.engine import build
from mmhier.errors import MMHierError
from mmhier.registry import STRATEGIES
from .checkpoints import load_training_checkpoint
from .determinism import check_deterministic
from .environment import join_cpu_processes, unique_timestamp
from .geometry import keep_geometry_in_float32
from .resuming import check_optimizer_fits, resumed_facts


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """FSDPStrategy whose checkpoints can be resumed; works on CPUs, too.

    Args:
        model_wrapper (dict, optional): See mmengine's strategy.
        **kwargs: Other arguments of mmengine's strategy.

    Raises:
        MMHierError: If there is one process, started without a launcher.

    Attributes:
        whole_model (nn.Module): The model before it was spread, on the device
            'meta', so without values.
        resumed (dict): :func:`~mmhier.engine.resuming.resumed_facts` of the
            checkpoint.
    """
    _timestamp: str

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any):
        super().__init__(model_wrapper=model_wrapper, **kwargs)
        if not is_distributed():
            raise MMHierError(f'{type(self).__name__} spreads the model over '
                              'processes: start them with tools/dist_train.sh, '
                              'tools/dist_test.sh or torchrun')
        if get_device() == 'cpu':
            # mmengine would give each process a CUDA device.
            self.model_wrapper = dict(model_wrapper or {}, device_id='cpu')
            # From a CPU nothing is copied: torch frees weights that it still
            # needs, and the parts of the optimizer's state share one buffer.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False

    @property
    def writes_one_file(self) -> bool:
        """Whether the first process writes the whole checkpoint."""
        return self._is_full_state_dict()

    def _setup_env(self,
                   *,
                   launcher: str | None = None,
                   tf32: bool = False,
                   **kwargs: Any) -> None:
        join_cpu_processes(launcher or infer_launcher())
        if tf32:
            torch.set_float32_matmul_precision('high')
        super()._setup_env(launcher=launcher, **kwargs)
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

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        check_pretrained(model)
        return super()._init_model_weights(model)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        self.whole_model = deepcopy(model).to('meta')
        return super()._wrap_model(model)

    def resume(self,
               filename: str,
               *,
               callback: Callable[[dict], None] | None = None,
               **kwargs: Any) -> dict:
        """Resume a training.

        Args:
            filename (str): See :meth:`load_checkpoint`.
            callback (Callable, optional): See :meth:`load_checkpoint`.
            **kwargs: See mmengine's strategy.

        Returns:
            dict: Content, without weights and states.

        Raises:
            MMHierError: If the checkpoint is of another optimizer or of other
                parameter groups.
        """

        def compare(checkpoint: dict) -> None:
            if callback is not None:
                callback(checkpoint)
            check_optimizer_fits(self.optim_wrapper, checkpoint)
            self.resumed = resumed_facts(checkpoint)

        return super().resume(filename, callback=compare, **kwargs)

    def build_optim_wrapper(self,
                            optim_wrapper: Any,
                            model: nn.Module | None = None) -> Any:
        """Build the optimizer, after a check of determinism.

        Args:
            optim_wrapper (OptimWrapper | dict): See mmengine's strategy.
            model (nn.Module, optional): See mmengine's strategy.

        Raises:
            MMHierError: If determinism is asked for and CUDA lacks a
                deterministic form of an operator.
        """
        if model is not None:
            check_deterministic(model, get_device())
        return super().build_optim_wrapper(optim_wrapper, model)

    def load_checkpoint(self,
                        filename: str,
                        *,
                        map_location: Any = 'cpu',
                        callback: Callable[[dict], None] | None = None,
                        **kwargs: Any) -> dict:
        """Load a checkpoint without executing code in it.

        Args:
            filename (str): A file, or the folder of those of all processes.
            map_location (Any): As in ``torch.load``, or 'default' for the
                device in use. Defaults to 'cpu'.
            callback (Callable, optional): Called with the content.
                Defaults to None.
            **kwargs: Arguments of ``load_model_state_dict``.

        Returns:
            dict: Content, without the weights.

        Raises:
            MMHierError: If it cannot be found or read.
        """
        if map_location == 'default':
            map_location = get_device()
        if not self.writes_one_file:
            filename = osp.join(filename, f'rank{get_rank()}.pth')
        checkpoint = load_training_checkpoint(filename, map_location)
        if callback is not None:
            callback(checkpoint)
        self.load_model_state_dict(checkpoint.pop('state_dict'), **kwargs)
        return checkpoint

    def optim_state_dict(self) -> dict:
        """State of the optimizer, with what mmengine's wrapper adds to it.

        Returns:
            dict: Of the optimizer in one process, by names of parameters.
        """
        return {**self.optim_wrapper.state_dict(), **super().optim_state_dict()}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the optimizer.

        mmengine hands it to torch in an order of arguments that was changed
        in torch 2.1.

        Args:
            state_dict (dict): Returned by :meth:`optim_state_dict`.
        """
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer, state_dict)
        self.optim_wrapper.load_state_dict({**state_dict, **sharded})
