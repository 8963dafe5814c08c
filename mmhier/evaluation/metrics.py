"""Registration of the metrics whose package, mmdet or mmseg, is usable."""
import logging
from importlib import import_module
from importlib.util import find_spec

from mmengine.logging import print_log

for package, module in (('mmdet', 'coco_metric'), ('mmseg', 'iou_metric')):
    if find_spec(package) is None:
        continue
    try:
        import_module(f'mmhier.evaluation.{module}')
    except ImportError as error:
        # A broken mmseg must not take metrics away from mmdet.
        print_log(
            f'metrics for {package} are not available: {error}',
            level=logging.WARNING)
