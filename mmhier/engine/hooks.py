"""Hooks of every training: exact resuming, and an end at a bad loss."""
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset
from mmhier.errors import MMHierError


def _seed(seed: int, *place: int) -> None:
    """Seed the generators for a place in the training, and no other."""
    sequence = np.random.SeedSequence(seed, spawn_key=place)
    value = int(sequence.generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def _load_seeded(dataset: Dataset, batch: list[tuple[tuple[int, ...],
                                                     int]]) -> list[Any]:
    """Samples of :class:`_SeededBatches`, in whichever process loads them."""
    samples = []
    for place, index in batch:
        _seed(*place)
        samples.append(dataset[index])
    return samples


class _SeededBatches(BatchSampler):
    """Batches whose samples bring the seed they are to be loaded with.

    Args:
        batches (BatchSampler): Yields indices.
        seed (int): Of the training.
        skip (int): How many batches are left out at first.
    """

    def __init__(self, batches: BatchSampler, seed: int, skip: int):
        # What hooks and users ask of the sampler.
        self.__dict__.update(vars(batches))
        self.batches = batches
        self.place = (seed, get_rank())
        self.epoch = 0
        self.skip = skip

    def __iter__(self) -> Iterator[list]:
        for i, batch in enumerate(self.batches):
            if self.skip:
                self.skip -= 1
                continue
            yield [((*self.place, self.epoch, i, j), index)
                   for j, index in enumerate(batch)]
        # mmengine's hook counts the epochs, but in loops over iterations.
        self.epoch += 1

    def __len__(self) -> int:
        return len(self.batches)


class _SkippingIterator:
    """Stands in for the iterator of mmengine's loop over iterations.

    The loop would draw the batches that were trained on once more.

    Args:
        iterator (Iterator): Begins after these batches.
        skip (int): Their number.
    """

    def __init__(self, iterator: Iterator[Any], skip: int):
        self._iterator = iterator
        self._skip = skip

    def skip_iter(self, num_iters: int) -> None:
        """Called by mmengine >= 0.10.12 when it resumes."""
        self._skip = 0

    def __next__(self) -> Any:
        if self._skip:
            self._skip -= 1
            return None
        return next(self._iterator)


class ExactResumeHook(Hook):
    """Lets a resumed training do what it would have done without the stop.

    Every random number is drawn from the seed, the process and the place in
    the training: the iteration for the model; epoch, batch and place in the
    batch for a sample. So neither the number of worker processes nor their
    age matters. Batches that were trained on, in the midst of an epoch too,
    are left out without being loaded.

    What else a pipeline remembers or draws from, such as the earlier images
    of CachedMosaic or the generators of albumentations, is not restored.
    """
    # The first to act: other hooks draw too, and save checkpoints.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._resumed = 0
        self._trained = 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add how many batches of the epoch were trained on."""
        checkpoint['batches_of_epoch'] = self._trained

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take them over when resuming."""
        if runner._resume:
            self._resumed = checkpoint.get('batches_of_epoch', 0)

    def before_train(self, runner: Runner) -> None:
        """Let the dataloader begin behind them, and seed each sample."""
        loop = runner.train_loop
        loader = loop.dataloader
        by_iter = hasattr(loop, 'dataloader_iterator')
        skip = loop.iter if by_iter else self._resumed
        batches = _SeededBatches(loader.batch_sampler, runner.seed, skip)
        # Plain assignment is refused by DataLoader.
        vars(loader)['batch_sampler'] = batches
        setattr(loader.dataset, '__getitems__',
                partial(_load_seeded, loader.dataset))
        if by_iter:
            self._resumed = 0  # its batches are counted by the loop
            # The original mmengine has begun to draw already.
            loader._iterator = None
            if isinstance(batches.sampler, InfiniteSampler):
                batches.sampler.indices = batches.sampler._indices_of_rank()
            loop.dataloader_iterator = _SkippingIterator(
                type(loop.dataloader_iterator)(loader), skip)

    def before_train_epoch(self, runner: Runner) -> None:
        """Count the epochs of the samples."""
        runner.train_dataloader.batch_sampler.epoch = runner.epoch

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Seed the model."""
        _seed(runner.seed, get_rank(), runner.iter)
        self._trained = self._resumed + batch_idx + 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin to count anew."""
        self._resumed = self._trained = 0
        # Left where the resumed epoch has fewer batches than it had.
        runner.train_dataloader.batch_sampler.skip = 0

    def after_train(self, runner: Runner) -> None:
        """Let the workers end; garbage collection would end them by force."""
        runner.train_dataloader._iterator = None
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            runner.train_loop.dataloader_iterator = None


class FiniteLossHook(Hook):
    """Ends a training whose loss is no number any more.

    It would go on for days without learning, and its next checkpoints would
    take the place of the last good ones.
    """

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Check the losses of an iteration, before anything is saved.

        Raises:
            MMHierError: Names the losses, the iteration and the images.
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
        raise MMHierError(
            f'{", ".join(parts)} is not finite in iteration {runner.iter + 1} '
            f'(images: {", ".join(_image_names(data_batch))}); {weights}. '
            f'Nothing was saved after this; checkpoints in {runner.work_dir} '
            'are from before. Check these images and labels, lower the '
            'learning rate, add optim_wrapper.clip_grad, or with --amp use '
            '--amp-dtype bfloat16')


def _image_names(data_batch: Any) -> list[str]:
    """Files of a batch, as far as it names them."""
    samples = data_batch.get('data_samples') if isinstance(data_batch,
                                                           dict) else None
    names = [getattr(sample, 'img_path', None) for sample in samples or ()]
    return [str(name) for name in names if name] or ['not named']
