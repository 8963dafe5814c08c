"""Checkpoints that survive an interruption, and which one to go on from."""
import math
import os
import os.path as osp
import tempfile
from glob import escape, glob
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmhier.checkpoints import CheckpointError, read_checkpoint
from mmhier.checkpoints.reading import SAFE_TYPES
from mmhier.errors import MMHierError

_BACKEND = 'mmhier-local'


@register_backend(_BACKEND, force=True)
class WholeFileBackend(LocalBackend):
    """Local files that are there whole or not at all.

    They are written under a temporary name and renamed. mmengine removes an
    outdated checkpoint before it writes the new one: here the removal waits
    until the new one is there.
    """

    # Of all instances: mmengine makes one for each file.
    _outdated: list[str | Path] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, then remove those that were to be removed.

        Args:
            obj (bytes): Its content.
            filepath (str | Path): Its path.

        Raises:
            MMHierError: If it cannot be written, as when the disk is full.
        """
        folder = osp.dirname(osp.abspath(filepath))
        temporary = None
        try:
            os.makedirs(folder, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(
                dir=folder, prefix='.', suffix='.unfinished')
            with os.fdopen(descriptor, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, filepath)
        except OSError as error:
            if temporary is not None and osp.exists(temporary):
                os.unlink(temporary)
            raise MMHierError(
                f'{filepath} cannot be written: {error.strerror}. Earlier '
                'checkpoints are kept: make room and go on with '
                '--resume') from error
        while self._outdated:
            Path(self._outdated.pop()).unlink(missing_ok=True)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file as soon as the next one is written."""
        self._outdated.append(filepath)


def save_whole_checkpoints(runner: Runner) -> None:
    """Let the checkpoint hook of a runner write through WholeFileBackend.

    Hooks that write to another backend are left as they are. What an
    interrupted run left unfinished in work_dir is removed.

    Args:
        runner (Runner): Before training.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and not (hook.backend_args
                                                     or hook.file_client_args):
            hook.backend_args = dict(backend=_BACKEND)
    for path in glob(osp.join(escape(runner.work_dir), '.*.unfinished')):
        os.unlink(path)
        print_log(
            f'removed {path}, which an interrupted run left', logger='current')


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
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        if {'meta', 'message_hub', 'optimizer'} <= set(content):
            return path, skipped
        skipped.append(f'{path} holds no training state')
    return None, skipped


def _progress(path: str) -> tuple[float, float]:
    """Iteration of a checkpoint and time of its file."""
    # Not for a while only: its end would take them from everybody else.
    torch.serialization.add_safe_globals(SAFE_TYPES)
    try:
        # Without its tensors, which stay in the file.
        content = torch.load(
            path, map_location='cpu', mmap=True, weights_only=True)
        iteration = content['meta']['iter']
    except (KeyError, TypeError):
        iteration = -1
    except Exception:
        # A damaged file can raise anything. It is read whole first, which says
        # what is wrong with it.
        iteration = math.inf
    return iteration, osp.getmtime(path)
