"""Hook that ends a training whose loss is not finite."""
import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmhier.errors import MMHierError
from mmhier.registry import HOOKS

# A gradient scaler begins at 2^16 and halves its scale at each overflow.
_MAX_OVERFLOWS = 20


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends a training whose loss is not finite.

    It would go on for days without learning, and its next checkpoints would
    take the place of the last good ones. With a gradient scaler, overflows
    of float16 are left to it: only 20 in a row end the training.
    """

    def __init__(self) -> None:
        self._overflows = 0

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Check the loss of an iteration, before anything is saved.

        Raises:
            MMHierError: Names the losses, the iteration and the images.
        """
        losses = outputs or {}
        checked = ['loss'] if 'loss' in losses else list(losses)
        if all(_is_finite(runner, name, losses[name]) for name in checked):
            self._overflows = 0
            return
        self._overflows += 1
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and self._overflows < _MAX_OVERFLOWS:
            return
        bad = [
            name for name in losses
            if not _is_finite(runner, name, losses[name])
        ]
        parts = [name for name in bad if name != 'loss'] or bad
        broken = [
            name for name, parameter in runner.model.named_parameters()
            if not parameter.isfinite().all()
        ]
        weights = ('weights are still finite' if not broken else
                   f'{len(broken)} weights are not finite either, such as '
                   f'{broken[0]}')
        raise MMHierError(
            f'{", ".join(parts)} is not finite in iteration {runner.iter + 1} '
            f'(images: {", ".join(_image_names(data_batch))}); {weights}. '
            f'Nothing was saved after this; checkpoints in {runner.work_dir} '
            'are from before. Check these images and labels, lower the '
            'learning rate, add optim_wrapper.clip_grad, or with --amp use '
            '--amp-dtype bfloat16')


def _is_finite(runner: Runner, name: str, value: Any) -> bool:
    """Whether an output is finite.

    mmengine's RuntimeInfoHook has fetched it from the device already.
    """
    scalars = runner.message_hub.log_scalars
    if f'train/{name}' in scalars:
        return math.isfinite(scalars[f'train/{name}'].current())
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def _image_names(data_batch: Any) -> list[str]:
    """Files of a batch, as far as it names them."""
    samples = data_batch.get('data_samples') if isinstance(data_batch,
                                                           dict) else None
    names = [getattr(sample, 'img_path', None) for sample in samples or ()]
    return [str(name) for name in names if name] or ['not named']
