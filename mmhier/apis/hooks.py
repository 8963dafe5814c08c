"""Hooks of every training: exact resuming, and an end at a bad loss."""
import random
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from .errors import UserError


def get_random_state() -> Dict[str, Any]:
    """States of the random number generators that a training draws from.

    Returns:
        dict: Numbers, tuples and tensors, which can be read back with
        ``weights_only=True``.
    """
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), *rest),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all())


def set_random_state(state: Dict[str, Any]) -> None:
    """Go on drawing where :func:`get_random_state` was called.

    Args:
        state (dict): Its result. GPUs that are not there any more are left
            out.
    """
    version, keys, gauss = state['python']
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    for i, values in enumerate(state['cuda'][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(values.cpu(), i)


class RandomStateHook(Hook):
    """Keeps the random state in checkpoints, for resuming bit for bit.

    Worker processes of a dataloader are seeded by mmengine when they start,
    so a training resumed within an epoch is the same to the bit with
    ``num_workers=0`` only. All processes of a distributed training resume
    with the state of the main one, as mmengine seeds them alike.

    Validation, which a resumed training does not repeat, draws from the same
    generators: their state is put back after it.
    """
    # The last to act before the first batch is drawn.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._resumed: Optional[Dict[str, Any]] = None
        self._before_val: Dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of this process."""
        checkpoint['random_state'] = get_random_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the state when resuming."""
        if not runner._resume:
            return
        self._resumed = checkpoint.get('random_state')
        if self._resumed is None:
            print_log(
                'the checkpoint holds no state of the random number '
                'generators: random augmentations start from the seed again',
                logger='current')

    def before_train(self, runner: Runner) -> None:
        """Set the state, after all that was built has drawn from it."""
        # An iterator draws a number when it is made, and resuming makes one
        # more.
        runner.train_dataloader.generator = torch.Generator()
        if self._resumed is not None:
            set_random_state(self._resumed)

    def before_val(self, runner: Runner) -> None:
        """Remember the state."""
        self._before_val = get_random_state()

    def after_val(self, runner: Runner) -> None:
        """Put the state back."""
        set_random_state(self._before_val)


class FiniteLossHook(Hook):
    """Ends a training whose loss is no number any more.

    It would go on for days without learning, and its next checkpoints would
    take the place of the last good ones.
    """

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Check the losses of an iteration, before anything is saved.

        Raises:
            UserError: Names the losses, the iteration and the images.
        """
        bad = [
            name for name, value in (outputs or {}).items()
            if isinstance(value, torch.Tensor) and not value.isfinite().all()
        ]
        if not bad:
            return
        parts = [name for name in bad if name != 'loss'] or bad
        broken = [
            name for name, parameter in runner.model.named_parameters()
            if not parameter.isfinite().all()
        ]
        weights = ('weights are still finite' if not broken else
                   f'{len(broken)} weights are not finite either, such as '
                   f'{broken[0]}')
        raise UserError(
            f'{", ".join(parts)} is not finite in iteration {runner.iter + 1} '
            f'(images: {", ".join(_image_names(data_batch))}); {weights}. '
            f'Nothing was saved after this; checkpoints in {runner.work_dir} '
            'are from before. Check these images and labels, lower the '
            'learning rate, add optim_wrapper.clip_grad, or with --amp use '
            '--amp-dtype bfloat16')


def _image_names(data_batch: Any) -> List[str]:
    """Files of a batch, as far as it names them."""
    samples = data_batch.get('data_samples') if isinstance(
        data_batch, dict) else None
    names = [getattr(sample, 'img_path', None) for sample in samples or ()]
    return [str(name) for name in names if name] or ['not named']
