"""Checkpoints from any place that mmengine knows, read without unpickling."""
import os.path as osp
from typing import Any

from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmhier.errors import MMHierError
from .reading import read_checkpoint
from .resolving import resolve_checkpoint


def has_own_loader(source: str) -> bool:
    """Whether the user registered a loader for a checkpoint with mmengine."""
    loader = CheckpointLoader._get_checkpoint_loader(source)
    return loader.__module__ != mmengine_checkpoint.__name__


def load_checkpoint(source: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Load a checkpoint without executing code in it.

    A loader that the user registered with mmengine's ``CheckpointLoader`` is
    used as it is.

    Args:
        source (str): A path, a URL, or a model of mmengine's model zoos, such
            as 'torchvision://resnet50'; see :func:`locate_checkpoint`.
        map_location (Any): As in ``torch.load``. Defaults to 'cpu'.

    Returns:
        dict: Content of the checkpoint.

    Raises:
        MMHierError: If it cannot be found, downloaded or read.
    """
    if has_own_loader(source):
        return CheckpointLoader.load_checkpoint(source, map_location)
    content = read_checkpoint(locate_checkpoint(source), map_location)
    if source.startswith('mmcls://'):
        return mmengine_checkpoint._process_mmcls_checkpoint(content)
    return content


def locate_checkpoint(source: str) -> str:
    """Find a checkpoint as a local file; download it if need be.

    Args:
        source (str): See :func:`load_checkpoint` and
            :func:`resolve_checkpoint`.

    Returns:
        str: Path of the file.

    Raises:
        MMHierError: If it cannot be found or downloaded.
    """
    found = resolve_checkpoint(source)
    scheme, separator, name = found.partition('://')
    return resolve_checkpoint(_resolve(scheme, name)) if separator else found


def _resolve(scheme: str, name: str) -> str:
    """URL or path of a model of one of mmengine's model zoos."""
    if scheme in ('modelzoo', 'torchvision'):
        models = mmengine_checkpoint.get_torchvision_models()
    elif scheme in ('open-mmlab', 'openmmlab'):
        models = mmengine_checkpoint.get_external_models()
        renamed = mmengine_checkpoint.get_deprecated_model_names()
        name = renamed.get(name, name)
    elif scheme == 'mmcls':
        models = mmengine_checkpoint.get_mmcls_models()
    else:
        raise MMHierError(
            f'checkpoint {scheme}://{name}: mmhier reads no {scheme}://; '
            'download the file and give its path, or register a loader with '
            "mmengine's CheckpointLoader.register_scheme")
    if name not in models:
        raise MMHierError(f'checkpoint {scheme}://{name}: there is no '
                          f'model {name} among those of {scheme}://')
    if '://' in models[name]:
        return models[name]
    return osp.join(mmengine_checkpoint._get_mmengine_home(), models[name])
