"""mmseg's IoUMetric with scores of each class."""
import numpy as np
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from mmhier.evaluation.per_class import PerClass, by_class
from mmhier.registry import METRICS


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's IoUMetric, which also keeps the scores of each class.

    :func:`mmhier.apis.test` builds mmseg's IoUMetric as this class.

    Args:
        **kwargs: Arguments of :class:`mmseg.evaluation.IoUMetric`.

    Attributes:
        per_class (dict[str, dict[str, float]]): 'IoU', 'Acc' and so on by
            class, in [0, 1]; None for classes without pixels. Set by
            :meth:`compute_metrics`.
    """
    per_class: PerClass = {}

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics from processed results.

        Args:
            results (list): Areas of intersection, union, prediction and
                label by class, of each image.

        Returns:
            dict[str, float]: Means over the classes, in per cent.
        """
        if not self.format_only:
            areas = (sum(area) for area in zip(*results))
            scores = self.total_area_to_metrics(*areas, self.metrics,
                                                self.nan_to_num, self.beta)
            self.per_class = {
                name: by_class(self.dataset_meta['classes'], values)
                for name, values in scores.items() if np.ndim(values) == 1
            }
        return super().compute_metrics(results)
