"""Checkpoints in mmengine's runner: read safely, refused when unfit."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_from_http
from mmengine.runner.checkpoint import load_from_local as load_unsafely
from torch import nn
from mmhier.checkpoints import (
    CheckpointError,
    find_checkpoint,
    read_checkpoint,
    unwrap_state_dict,
)

_FORCE_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_HTTP = ('http://', 'https://')

# Share of a checkpoint's weights that training must find a use for when it
# starts from one. New heads for other classes are a few per cent; below this,
# the file belongs to another network.
_MIN_USED = 0.8


@contextmanager
def safe_checkpoints() -> Iterator[None]:
    """Let mmengine read checkpoints without executing code in them.

    Files that are missing, and those behind a URL, are looked for in
    ``MMHIER_WEIGHTS`` first.

    mmengine falls back to plain unpickling when the safe way fails, and
    evaluates ``meta['config']`` as Python when it resumes.

    Raises:
        CheckpointError: In the body, where a checkpoint cannot be used.
    """

    def load_from_local(filename: str, map_location: Any = None) -> dict:
        checkpoint = read_checkpoint(filename, map_location)
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    def load_offline_first(filename: str, map_location: Any = None) -> dict:
        found = find_checkpoint(filename)
        if found != filename:
            return load_from_local(found, map_location)
        return load_from_http(filename, map_location)

    before = os.environ.get(_FORCE_SAFE)
    os.environ[_FORCE_SAFE] = '1'
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(_HTTP, load_offline_first, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme('', load_unsafely, force=True)
        CheckpointLoader.register_scheme(_HTTP, load_from_http, force=True)
        if before is None:
            del os.environ[_FORCE_SAFE]
        else:
            os.environ[_FORCE_SAFE] = before


class CheckpointFitHook(Hook):
    """Says how many names of a checkpoint match, and refuses another network.

    Testing and resuming need every parameter of the model, and hardly
    anything else in the file. Training from ``load_from`` needs a file whose
    weights mostly find their place.

    Args:
        complete (bool): Whether every parameter of the model is needed.
    """
    # Before EMAHook, which loads the weights into its own copy.
    priority = 'VERY_HIGH'

    def __init__(self, complete: bool):
        self.complete = complete

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes; see the class.

        Raises:
            CheckpointError: With the counts and some of the names.
        """
        if runner._resume:
            lacking = {'meta', 'message_hub', 'optimizer'} - set(checkpoint)
            if lacking:
                raise CheckpointError(
                    'the checkpoint holds no training state '
                    f'({", ".join(sorted(lacking))}), so it cannot be '
                    'resumed: start from its weights with '
                    '--cfg-options load_from=PATH')
        strategy = getattr(runner, 'strategy', None)
        whole_model = getattr(strategy, 'whole_model', None)
        if runner._resume:
            # By names in place of numbers.
            by_sharding = any(
                isinstance(key, str)
                for key in checkpoint['optimizer'].get('state', ()))
            if by_sharding != (whole_model is not None):
                raise CheckpointError(
                    'the state of the optimizer was saved '
                    f'{"by" if by_sharding else "without"} FSDP, and this '
                    f'config trains {"without" if by_sharding else "by"} it: '
                    'resume with the config of the checkpoint, or start from '
                    'its weights with --cfg-options load_from=PATH')
        model = runner.model if whole_model is None else whole_model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        report = self.compare(model, unwrap_state_dict(checkpoint))
        print_log(f'checkpoint: {report}', logger='current')

    def compare(self, model: nn.Module, weights: dict[str, Any]) -> str:
        """Compare the names and shapes of weights with those of a model.

        Args:
            model (nn.Module): Without wrappers.
            weights (dict[str, Tensor]): State dict of the checkpoint.

        Returns:
            str: How many match, and some of the names that do not.

        Raises:
            CheckpointError: If they do not fit, with the same counts.
        """
        own = model.state_dict()
        matched: list[str] = []
        mismatched: list[str] = []
        for name in own.keys() & weights.keys():
            same = own[name].shape == weights[name].shape
            (matched if same else mismatched).append(name)
        missing = own.keys() - weights.keys()
        unused = weights.keys() - own.keys()
        used = sum(weights[name].numel() for name in matched)
        total = sum(value.numel() for value in weights.values())
        report = (f'{len(matched)} of {len(own)} keys matched' +
                  _listed('missing', missing) +
                  _listed('of another shape', mismatched) +
                  _listed('not in the model', unused))
        parameters = {name for name, _ in model.named_parameters()}
        lacking = parameters - set(matched)
        min_used = 0.95 if self.complete else _MIN_USED
        if (self.complete and lacking) or used < min_used * total:
            raise CheckpointError(
                'the checkpoint does not fit the model of the config: '
                f'{report}')
        return report


def _listed(kind: str, names: list[str]) -> str:
    """'; 7 KIND: a, b, c, ...', or nothing."""
    if not names:
        return ''
    shown = ', '.join(sorted(names)[:3]) + ', ...' * (len(names) > 3)
    return f'; {len(names)} {kind}: {shown}'
