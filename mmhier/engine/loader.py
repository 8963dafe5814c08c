"""Dataloader that seeds samples and names files that cannot be loaded."""
import re
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
from torch.utils.data import DataLoader, Dataset, IterableDataset
from mmhier.datasets.memory import return_freed_memory
from mmhier.errors import MMHierError
from .loading_errors import explain_failure, find_flaw
from .seeding import SeededBatches, seed_generators

_SETTINGS = ('num_workers', 'collate_fn', 'pin_memory', 'timeout',
             'worker_init_fn', 'multiprocessing_context', 'generator',
             'prefetch_factor', 'persistent_workers', 'pin_memory_device',
             'in_order')
_LOADING_ERRORS = (AssertionError, AttributeError, IndexError, OSError,
                   TypeError, ValueError, cv2.error)
_LOST = re.compile(r'DataLoader worker \(pid.* (exited unexpectedly|is killed '
                   r'by signal)')


class _Failure(NamedTuple):
    """A sample that cannot be used; raised in the main process."""
    message: str
    traceback: str


class _Samples(Dataset):
    """Samples of a dataset by index and seed.

    Args:
        dataset (Dataset): Of any package.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: tuple[int, tuple[int, ...] | None]) -> Any:
        index, place = item
        if place is not None:
            seed_generators(*place)
        try:
            sample = self.dataset[index]
            flaw = find_flaw(self.dataset, index, sample)
            return sample if flaw is None else _Failure(flaw, '')
        except _LOADING_ERRORS as error:
            message: str | None = str(error)
            if not isinstance(error, MMHierError):
                message = explain_failure(self.dataset, index)
            if message is None:
                raise
            return _Failure(message, traceback.format_exc())


class _Collate:
    """Collate samples, unless one of them failed.

    Args:
        collate_fn (Callable): Makes a batch of a list of samples.
    """

    def __init__(self, collate_fn: Callable[[list], Any]):
        self.collate_fn = collate_fn

    def __call__(self, samples: list) -> Any:
        for sample in samples:
            if isinstance(sample, _Failure):
                return sample
        return self.collate_fn(samples)


class SampleLoader(DataLoader):
    """DataLoader that names files it cannot load, and a lost worker.

    Dataset and samplers are those it was given; only its iterators see them
    through :class:`_Samples` and :class:`SeededBatches`.

    Attributes:
        batches (SeededBatches): Its batches with the seeds of their samples.
    """
    batches: SeededBatches

    @classmethod
    def like(cls, loader: DataLoader) -> 'SampleLoader':
        """Make one with the settings of another loader.

        Args:
            loader (DataLoader): Left as it is.
        """
        settings = {key: getattr(loader, key) for key in _SETTINGS}
        if loader.batch_size is None and loader.batch_sampler is not None:
            settings['batch_sampler'] = loader.batch_sampler
        else:
            settings.update(
                batch_size=loader.batch_size, drop_last=loader.drop_last)
            if not isinstance(loader.dataset, IterableDataset):
                settings['sampler'] = loader.sampler
        return cls(loader.dataset, **settings)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.batches = SeededBatches(self.batch_sampler)

    def seed_samples(self, seed: int, skip: int = 0) -> None:
        """Seed each sample by its place from the next iterator on.

        Args:
            seed (int): Seed of the training.
            skip (int): Number of batches to leave out. Defaults to 0.
        """
        self.batches = SeededBatches(self.batch_sampler, seed, skip)

    def close(self) -> None:
        """Let go of persistent workers."""
        self._iterator = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate over the batches.

        Raises:
            MMHierError: If a sample cannot be used, or a worker was killed.
        """
        iterator = super().__iter__()
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except (OSError, EOFError, RuntimeError) as error:
                if is_of_lost_worker(error) or _has_lost_worker(iterator):
                    raise lost_worker_error() from error
                raise
            if isinstance(batch, _Failure):
                cause = RuntimeError(batch.traceback or batch.message)
                raise MMHierError(batch.message) from cause
            yield batch

    def _get_iterator(self) -> Any:
        if (self.batch_sampler is None
                or isinstance(self.dataset, IterableDataset)):
            return super()._get_iterator()
        # Workers would inherit the memory that checks and records have freed.
        return_freed_memory()
        settings = {key: getattr(self, key) for key in _SETTINGS}
        settings['collate_fn'] = _Collate(self.collate_fn)
        inner = DataLoader(
            _Samples(self.dataset), batch_sampler=self.batches, **settings)
        return inner._get_iterator()


def is_of_lost_worker(error: BaseException) -> bool:
    """Whether torch says that a worker of a dataloader was killed."""
    return _LOST.match(str(error)) is not None


def lost_worker_error() -> MMHierError:
    """Error of a worker that was killed."""
    return MMHierError(
        'a worker process of a dataloader was killed, most often because '
        'memory ran out: lower num_workers or batch_size. Checkpoints written '
        'before are kept: go on from the newest with --resume')


def _has_lost_worker(iterator: Any) -> bool:
    """Whether a worker has ended.

    A batch cannot be opened any more once its worker is gone, which the
    system may report a little later.
    """
    workers = getattr(iterator, '_workers', ())
    end = time.monotonic() + 2 * bool(workers)
    try:
        while time.monotonic() < end:
            if any(worker.exitcode is not None for worker in workers):
                return True
            time.sleep(0.01)
    except RuntimeError:  # torch's own report, raised by a signal handler
        return True
    return False
