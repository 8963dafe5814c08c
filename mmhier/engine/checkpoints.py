"""Checkpoints of a training: read safely, saved whole, refused when unfit."""
import math
import os.path as osp
import zipfile
from glob import escape, glob
from pathlib import Path
from typing import Any

import torch
from mmengine import hooks
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from mmhier.checkpoints import (
    convert_for_model,
    read_checkpoint,
    unwrap_state_dict,
)
from mmhier.checkpoints.reading import allow_safe_types
from mmhier.checkpoints.sources import load_checkpoint
from mmhier.errors import MMHierError
from mmhier.files import PARTIAL
from mmhier.registry import HOOKS

# Share of a checkpoint's weights that training must find a use for when it
# starts from one. New heads for other classes are a few per cent; below this,
# the file belongs to another network.
_MIN_USED = 0.8


def load_training_checkpoint(source: str, map_location: Any) -> dict[str, Any]:
    """Load a checkpoint for a runner without executing code in it.

    Args:
        source (str): See :func:`mmhier.checkpoints.sources.load_checkpoint`.
        map_location (Any): As in ``torch.load``.

    Returns:
        dict: Content, without ``meta['config']``, which mmengine would
        evaluate as Python when it resumes.

    Raises:
        MMHierError: If it cannot be found, downloaded or read.
    """
    checkpoint = load_checkpoint(source, map_location)
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


class _RemovesLater(LocalBackend):
    """Local files whose removal waits.

    Attributes:
        outdated (list[str]): Paths of files to remove.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outdated: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        """Note a file to be removed."""
        self.outdated.append(str(filepath))


@HOOKS.register_module()
class CheckpointHook(hooks.CheckpointHook):
    """CheckpointHook that removes a checkpoint once its successor is written.

    mmengine removes an outdated checkpoint first, so that a process killed
    in between leaves none. Other backends than local files are left alone.

    Args:
        **kwargs: Arguments of :class:`mmengine.hooks.CheckpointHook`.
    """

    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and remove leftovers of an interrupted run."""
        super().before_train(runner)
        # To publish a checkpoint, mmengine 0.10.7 reads it with torch's
        # defaults.
        allow_safe_types()
        if not isinstance(self.file_backend, LocalBackend):
            return
        self.file_backend = _RemovesLater()
        if is_main_process():
            folder = escape(str(self.out_dir))
            for path in glob(osp.join(folder, f'{PARTIAL}*')):
                Path(path).unlink(missing_ok=True)
                print_log(
                    f'removed {path}, which an interrupted run left',
                    logger='current')

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        if not isinstance(self.file_backend, _RemovesLater):
            return
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = {
            str(path)
            for path in (self.last_ckpt, getattr(self, 'best_ckpt_path', None),
                         *best)
        }
        while self.file_backend.outdated:
            path = self.file_backend.outdated.pop()
            if path not in kept:
                Path(path).unlink(missing_ok=True)


@HOOKS.register_module()
class CheckpointFitHook(hooks.Hook):
    """Report how much of a checkpoint matches; refuse another network's.

    Testing and resuming need every parameter of the model, and hardly
    anything else in the file. Training from ``load_from`` needs a file whose
    weights mostly find their place.

    Args:
        complete (bool): Whether every parameter of the model is needed, as
            it always is to resume. Defaults to False.
    """
    # Before EMAHook, which loads the weights into its own copy.
    priority = 'VERY_HIGH'

    def __init__(self, complete: bool = False):
        self.complete = complete

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes; see the class.

        Raises:
            MMHierError: With the counts and some of the names.
        """
        if runner._resume:
            lacking = {'meta', 'message_hub', 'optimizer'} - set(checkpoint)
            if lacking:
                raise MMHierError(
                    'the checkpoint holds no training state '
                    f'({", ".join(sorted(lacking))}), so it cannot be '
                    'resumed: start from its weights with '
                    '--cfg-options load_from=PATH')
        strategy = getattr(runner, 'strategy', None)
        whole_model = getattr(strategy, 'whole_model', None)
        if runner._resume:
            # By names in place of numbers.
            by_sharding = any(
                isinstance(key, str)
                for key in checkpoint['optimizer'].get('state', ()))
            if by_sharding != (whole_model is not None):
                raise MMHierError(
                    'the state of the optimizer was saved '
                    f'{"by" if by_sharding else "without"} FSDP, and this '
                    f'config trains {"without" if by_sharding else "by"} it: '
                    'resume with the config of the checkpoint, or start from '
                    'its weights with --cfg-options load_from=PATH')
        model = runner.model if whole_model is None else whole_model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        weights = unwrap_state_dict(checkpoint)
        converted = convert_for_model(model, weights)
        if converted is not weights:
            checkpoint['state_dict'] = converted
        report = self.compare(model, converted, self.complete
                              or bool(runner._resume))
        print_log(f'checkpoint: {report}', logger='current')

    def compare(self,
                model: nn.Module,
                weights: dict[str, Any],
                complete: bool | None = None) -> str:
        """Compare the names and shapes of weights with those of a model.

        Args:
            model (nn.Module): Without wrappers.
            weights (dict[str, Tensor]): State dict of the checkpoint.
            complete (bool, optional): See the class, whose value it has by
                default.

        Returns:
            str: How many match, and some of the names that do not.

        Raises:
            MMHierError: If they do not fit, with the same counts.
        """
        own = model.state_dict()
        matched: list[str] = []
        mismatched: list[str] = []
        for name in own.keys() & weights.keys():
            same = own[name].shape == weights[name].shape
            (matched if same else mismatched).append(name)
        missing = own.keys() - weights.keys()
        unused = weights.keys() - own.keys()
        used = sum(weights[name].numel() for name in matched)
        total = sum(value.numel() for value in weights.values())
        report = (f'{len(matched)} of {len(own)} keys matched' +
                  _listed('missing', missing) +
                  _listed('of another shape', mismatched) +
                  _listed('not in the model', unused))
        parameters = {name for name, _ in model.named_parameters()}
        lacking = parameters - set(matched)
        if complete is None:
            complete = self.complete
        min_used = 0.95 if complete else _MIN_USED
        if (complete and lacking) or used < min_used * total:
            raise MMHierError(
                'the checkpoint does not fit the model of the config: '
                f'{report}')
        return report


def _listed(kind: str, names: list[str]) -> str:
    """'; 7 KIND: a, b, c, ...', or nothing."""
    if not names:
        return ''
    shown = ', '.join(sorted(names)[:3]) + ', ...' * (len(names) > 3)
    return f'; {len(names)} {kind}: {shown}'


def find_newest_checkpoint(work_dir: str) -> tuple[str | None, list[str]]:
    """Find the newest checkpoint of a folder that a run can go on from.

    That is the one of the last iteration; among those of the same, the file
    that was written last.

    Args:
        work_dir (str): Folder of a run.

    Returns:
        tuple[str | None, list[str]]: The checkpoint, None where there is
        none, and why others were skipped.
    """
    paths = glob(osp.join(escape(work_dir), '*.pth'))
    skipped = []
    for path in sorted(paths, key=_progress, reverse=True):
        try:
            content = read_checkpoint(path)
        except MMHierError as error:
            skipped.append(str(error))
            continue
        if {'meta', 'message_hub', 'optimizer'} <= set(content):
            return path, skipped
        skipped.append(f'{path} holds no training state')
    return None, skipped


def _progress(path: str) -> tuple[float, float]:
    """Iteration of a checkpoint and time of its file."""
    allow_safe_types()
    try:
        # Without its tensors, which stay in the file. Reading the pickle as a
        # record of the archive compares its checksum.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith('/data.pkl'):
                        archive.read(name)
        content = torch.load(
            path, map_location='cpu', mmap=True, weights_only=True)
    except Exception:
        # A damaged file can raise anything. It is read whole first, which says
        # what is wrong with it.
        return math.inf, osp.getmtime(path)
    try:
        iteration = content['meta']['iter']
    except (KeyError, TypeError):
        iteration = -1
    return iteration, osp.getmtime(path)
