"""Arguments of a dry evaluation."""
from collections.abc import Iterable
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """A metric, and the data that it will score.

    Attributes:
        key (str): Dotted key of the metric in the config.
        settings (dict): Its settings.
        metric (BaseMetric): Built from them, with ``dataset_meta``.
        dataset (Dataset): Of the dataloader.
        datasets (list[tuple[str, dict]]): Keys and settings of the datasets
            below its wrappers.
        indices (Iterable[int]): Of the images to try.
        model (dict): Config of the model.
    """
    key: str
    settings: dict
    metric: Any
    dataset: Any
    datasets: list[tuple[str, dict]]
    indices: Iterable[int]
    model: dict
