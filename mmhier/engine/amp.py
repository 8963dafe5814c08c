"""Mixed precision by flag, on devices with and without a gradient scaler."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn
from mmhier.engine.config import resolve_type
from mmhier.errors import MMHierError
from mmhier.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper that runs the forward pass in bfloat16.

    mmengine's AmpOptimWrapper scales losses on a GPU, which bfloat16, with
    the exponents of float32, does not need; so this one works on CPUs too.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, with what OptimWrapper does for gradient accumulation."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


# Wrappers that take another precision.
SWITCHABLE_WRAPPERS = (OptimWrapper, AmpOptimWrapper, AutocastOptimWrapper)


def use_amp(cfg: Config, dtype: str | None = None) -> None:
    """Switch the optimizer wrapper of a config to mixed precision.

    Args:
        cfg (Config): Changed in place.
        dtype (str, optional): 'float16' or 'bfloat16'. Defaults to None:
            'bfloat16' on CPUs, 'float16' elsewhere.

    Raises:
        MMHierError: If the device has no such precision, or the config has an
            optimizer wrapper of its own kind.
    """
    on_cpu = get_device() == 'cpu'
    dtype = dtype or ('bfloat16' if on_cpu else 'float16')
    if on_cpu and dtype == 'float16':
        raise MMHierError('--amp in float16 needs a GPU: use --amp-dtype '
                          'bfloat16 on CPUs')
    wrapper = cfg.optim_wrapper
    kind = wrapper.setdefault('type', 'OptimWrapper')
    if resolve_type(kind, OPTIM_WRAPPERS) not in SWITCHABLE_WRAPPERS:
        raise MMHierError(
            f'--amp cannot replace optim_wrapper.type={kind}: set '
            'the precision in the config')
    if dtype == 'bfloat16':
        for key in ('loss_scale', 'dtype'):
            wrapper.pop(key, None)
        wrapper.type = 'mmhier.AutocastOptimWrapper'
    else:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.dtype = dtype
        wrapper.setdefault('loss_scale', 'dynamic')
