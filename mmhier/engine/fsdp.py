"""Training with the model spread over the processes."""
from copy import deepcopy
from typing import Any

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_distributed
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from mmhier.errors import MMHierError
from mmhier.registry import STRATEGIES


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
    """

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

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        self.whole_model = deepcopy(model).to('meta')
        return super()._wrap_model(model)

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
            state_dict (dict): What :meth:`optim_state_dict` returned.
        """
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, self.optim_wrapper.optimizer, state_dict)
        self.optim_wrapper.load_state_dict({**state_dict, **sharded})
