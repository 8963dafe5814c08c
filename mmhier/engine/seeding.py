"""Random numbers by the place in the training, for exact resuming."""
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler
from mmhier.errors import MMHierError
from mmhier.registry import HOOKS
from .resuming import describe_training


def seed_generators(seed: int, *place: int) -> None:
    """Seed Python, numpy and torch for one place in the training.

    Args:
        seed (int): Seed of the training.
        *place (int): Such as the process and the iteration.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=place)
    value = int(sequence.generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


class SeededBatches:
    """Batches of pairs: the index of a sample and its seed.

    Args:
        batches (BatchSampler): Yields lists of indices.
        seed (int, optional): Seed of the training. Defaults to None: samples
            are not seeded.
        skip (int): Number of batches to leave out at first. Defaults to 0.
    """

    def __init__(self,
                 batches: BatchSampler,
                 seed: int | None = None,
                 skip: int = 0):
        self.batches = batches
        self.seed = seed
        self.skip = skip
        self.epoch = 0

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...] | None]]]:
        for i, batch in enumerate(self.batches):
            if self.skip:
                self.skip -= 1
            elif self.seed is None:
                yield [(index, None) for index in batch]
            else:
                place = self.seed, get_rank(), self.epoch, i
                yield [(index, (*place, j)) for j, index in enumerate(batch)]
        # mmengine's hook counts the epochs, but in loops over iterations.
        self.epoch += 1

    def __len__(self) -> int:
        return len(self.batches)


class EndlessIterator:
    """Batches of a loop over iterations; epochs follow each other.

    mmengine's own starts workers before a checkpoint is loaded (0.10.7) and
    loads the batches of earlier iterations again.

    Args:
        loop (IterBasedTrainLoop): Its iteration is that of the checkpoint
            when the first batch is drawn.
    """

    def __init__(self, loop: Any):
        self._loop = loop
        self._loader = loop.dataloader
        self._iterator: Any = None
        self._epoch = 0
        # mmengine < 0.10.12 draws the batches of earlier iterations.
        self._draws_again = not hasattr(loop.dataloader_iterator, 'skip_iter')
        self._to_draw = 0
        self._is_new = True
        self._skip = 0

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the loader leaves these batches out.

        Args:
            num_iters (int): Iterations before the checkpoint.
        """

    def __next__(self) -> Any:
        if self._iterator is None:
            self._to_draw = self._loop.iter if self._draws_again else 0
            self._begin_epoch()
        if self._to_draw:
            self._to_draw -= 1
            return None
        while True:
            try:
                batch = next(self._iterator)
            except StopIteration:
                if self._is_new and self._loader.batches.skip == self._skip:
                    raise MMHierError(
                        'train_dataloader yields no batch: its dataset has '
                        'fewer samples than batch_size, or none') from None
                self._epoch += 1
                _set_epoch(self._loader, self._epoch)
                self._begin_epoch()
            else:
                self._is_new = False
                return batch

    def close(self) -> None:
        """Let go of the loader's workers."""
        self._iterator = None

    def _begin_epoch(self) -> None:
        self._iterator = iter(self._loader)
        self._is_new = True
        self._skip = self._loader.batches.skip


def _set_epoch(loader: Any, epoch: int) -> None:
    """Let the sampler of a loader shuffle anew."""
    samplers: list[Any] = [
        loader.sampler,
        getattr(loader.batch_sampler, 'sampler', None)
    ]
    for sampler in samplers:
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make a resumed training equal an uninterrupted one.

    Every random number is drawn from the seed, the process and the place in
    the training: the iteration for the model; epoch, batch and place in the
    batch for a sample. So neither the number of worker processes nor their
    age matters. Batches already trained on, within an epoch too, are skipped
    without loading.

    Other state of a pipeline, such as the earlier images of CachedMosaic or the
    generators of albumentations, is not restored.
    """
    # The first to act: other hooks draw too, and save checkpoints.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._resumed = 0
        self._trained = 0
        self._facts: dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add how many batches of the epoch were trained on, and how."""
        checkpoint['batches_of_epoch'] = self._trained
        checkpoint['trained_with'] = self._facts

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take them over when resuming."""
        if runner._resume:
            self._resumed = checkpoint.get('batches_of_epoch', 0)

    def before_train(self, runner: Runner) -> None:
        """Let the dataloader begin behind them, and seed each sample.

        Raises:
            MMHierError: If the runner is not one of mmhier.
        """
        loop = runner.train_loop
        if not hasattr(loop.dataloader, 'seed_samples'):
            raise MMHierError("mmhier.ExactResumeHook needs runner_type="
                              "'mmhier.Runner', whose dataloaders it seeds")
        self._facts = describe_training(runner)
        if hasattr(loop, 'dataloader_iterator'):
            self._resumed = 0
            loop.dataloader.seed_samples(runner.seed, skip=loop.iter)
        else:
            loop.dataloader.seed_samples(runner.seed, skip=self._resumed)

    def before_train_epoch(self, runner: Runner) -> None:
        """Count the epochs of the samples."""
        runner.train_dataloader.batches.epoch = runner.epoch

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Seed the model."""
        seed_generators(runner.seed, get_rank(), runner.iter)
        self._trained = self._resumed + batch_idx + 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Begin to count anew."""
        self._resumed = self._trained = 0
        # Left where the resumed epoch has fewer batches than it had.
        runner.train_dataloader.batches.skip = 0

    def after_train(self, runner: Runner) -> None:
        """Let the workers end; garbage collection would end them by force."""
        runner.train_dataloader.close()
        if hasattr(runner.train_loop, 'dataloader_iterator'):
            runner.train_loop.dataloader_iterator.close()
