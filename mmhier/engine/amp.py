"""Mixed precision by flag, on devices with and without a gradient scaler."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast
from torch import nn
from mmhier.engine.config import resolve_type
from mmhier.errors import MMHierError
from mmhier.registry import LOOPS, OPTIM_WRAPPERS


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


@LOOPS.register_module()
class AutocastTestLoop(TestLoop):
    """TestLoop whose model runs in a half precision of choice.

    Args:
        runner (Runner): See mmengine's TestLoop.
        dataloader (DataLoader | dict): See mmengine's TestLoop.
        evaluator (Evaluator | dict | list): See mmengine's TestLoop.
        dtype (str): 'float16' or 'bfloat16'. Defaults to 'bfloat16'.
    """

    def __init__(self,
                 runner: Any,
                 dataloader: Any,
                 evaluator: Any,
                 dtype: str = 'bfloat16'):
        super().__init__(runner, dataloader, evaluator, fp16=True)
        self.dtype = getattr(torch, dtype)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Test a batch.

        Args:
            idx (int): Of the batch.
            data_batch (dict): From the dataloader.
        """
        # Sets the dtype alone: TestLoop enables autocast around the model.
        with torch.autocast(get_device(), self.dtype, enabled=False):
            super().run_iter(idx, data_batch)


# Wrappers that take another precision.
SWITCHABLE_WRAPPERS = (OptimWrapper, AmpOptimWrapper, AutocastOptimWrapper)


def autocast_dtype(dtype: str | None, device: str) -> str:
    """Choose the precision of --amp.

    Args:
        dtype (str, optional): 'float16' or 'bfloat16'; None for 'bfloat16' on
            CPUs and 'float16' elsewhere.
        device (str): Such as 'cpu' or 'cuda:0'.

    Raises:
        MMHierError: If the device has no such precision.
    """
    on_cpu = device == 'cpu'
    dtype = dtype or ('bfloat16' if on_cpu else 'float16')
    if on_cpu and dtype == 'float16':
        raise MMHierError('--amp in float16 needs a GPU: use --amp-dtype '
                          'bfloat16 on CPUs')
    return dtype


def use_test_amp(cfg: Config, dtype: str | None = None) -> None:
    """Switch the test loop of a config to mixed precision.

    Args:
        cfg (Config): Changed in place.
        dtype (str, optional): See :func:`autocast_dtype`. Defaults to None.

    Raises:
        MMHierError: If the device has no such precision, or the config has a
            test loop of its own kind.
    """
    loop = dict(cfg.get('test_cfg') or {})
    kind = loop.get('type', 'TestLoop')
    if resolve_type(kind, LOOPS) not in (TestLoop, AutocastTestLoop):
        raise MMHierError(f'--amp cannot replace test_cfg.type={kind}: set '
                          'the precision in the config')
    loop.pop('fp16', None)
    cfg.test_cfg = dict(
        loop,
        type='mmhier.AutocastTestLoop',
        dtype=autocast_dtype(dtype, get_device()))


def use_amp(cfg: Config, dtype: str | None = None) -> None:
    """Switch the optimizer wrapper of a config to mixed precision.

    Args:
        cfg (Config): Changed in place.
        dtype (str, optional): See :func:`autocast_dtype`. Defaults to None.

    Raises:
        MMHierError: If the device has no such precision, or the config has an
            optimizer wrapper of its own kind.
    """
    dtype = autocast_dtype(dtype, get_device())
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
