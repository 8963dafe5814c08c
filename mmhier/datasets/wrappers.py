"""Datasets below wrappers such as ConcatDataset."""
from collections.abc import Iterator
from typing import Any


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Iterate over the datasets that hold samples of their own.

    Args:
        dataset (Dataset): Of any package, or a wrapper that keeps one in
            ``dataset`` or several in ``datasets``.

    Yields:
        Dataset: Each dataset below the wrappers; `dataset` itself without any.
    """
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [dataset.dataset] if hasattr(dataset, 'dataset') else []
    for item in inner:
        yield from inner_datasets(item)
    if not inner:
        yield dataset
