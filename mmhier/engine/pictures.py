"""Hook that draws the predictions of a test."""
import os.path as osp
from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmhier.files import distinct_names
from mmhier.registry import HOOKS


@HOOKS.register_module()
class PredictionPicturesHook(Hook):
    """Draw the predictions of a test, one picture for each image.

    The hooks of mmdet, mmseg and mmpretrain name a picture by the base name
    of its image, so pictures from several folders overwrite each other. This
    hook names pictures as ``tools/infer.py`` does.

    Args:
        show_dir (str, optional): Folder of the pictures. Defaults to None.
        show (bool): Show them in a window. Defaults to False.
        wait_time (float): Seconds for which a window shows a picture.
            Defaults to 0.
        **draw_args: Other arguments of the visualizer's ``add_datasample``
            (``visualize_cls`` for classifiers), such as ``pred_score_thr``.
    """

    def __init__(self,
                 show_dir: str | None = None,
                 show: bool = False,
                 wait_time: float = 0.,
                 **draw_args: Any):
        self.show_dir = show_dir
        self.draw_args = dict(draw_args, show=show, wait_time=wait_time)
        self.names: dict[str, str] = {}

    def before_test(self, runner: Runner) -> None:
        """Name the picture of each image."""
        if self.show_dir is None:
            # Without backends the visualizer shows pictures and writes none.
            runner.visualizer._vis_backends = {}
        dataset = runner.test_dataloader.dataset
        if not hasattr(dataset, 'get_data_info'):
            return
        paths = (
            dataset.get_data_info(i).get('img_path')
            for i in range(len(dataset)))
        files = [path for path in paths if isinstance(path, str)]
        self.names = distinct_names(files) if files else {}

    def after_test_iter(self,
                        runner: Runner,
                        batch_idx: int,
                        data_batch: Any = None,
                        outputs: Sequence | None = None) -> None:
        """Draw the predictions of a batch."""
        visualizer = runner.visualizer
        draw = getattr(visualizer, 'visualize_cls', visualizer.add_datasample)
        for i, sample in enumerate(outputs or ()):
            path = sample.get('img_path')
            if isinstance(path, str):
                image = mmcv.imfrombytes(fileio.get(path), channel_order='rgb')
                name = self.names.get(path, osp.basename(path))
            else:
                # A data set of arrays: draw on the input of the model.
                image = data_batch['inputs'][i].permute(1, 2, 0)
                image = np.ascontiguousarray(image.numpy(), np.uint8)
                name = str(sample.get('sample_idx', f'{batch_idx}_{i}'))
            out_file = None
            if self.show_dir is not None:
                out_file = osp.join(self.show_dir, f'{name}.jpg')
            draw(
                name=name,
                image=image,
                data_sample=sample,
                out_file=out_file,
                **self.draw_args)
