"""Models of mmhier by the names in its metafiles."""
import os.path as osp
from collections.abc import Iterator
from functools import lru_cache

from mmengine.fileio import load
from mmengine.infer import BaseInferencer

# Which package runs the models that were trained on a data set.
_SCOPES = {'COCO': 'mmdet', 'ADE20K': 'mmseg', 'ImageNet-1k': 'mmpretrain'}


@lru_cache(maxsize=1)
def model_configs() -> dict[str, tuple[str, str]]:
    """Models by name, from the checkout or from the installed package.

    Returns:
        dict[str, tuple[str, str]]: Package ('mmdet', 'mmseg' or
        'mmpretrain') and absolute path of the config, by the name of the
        model, such as 'mask-rcnn_hatnet-tiny_fpn_1x_coco'.
    """
    root = BaseInferencer._get_repo_or_mim_dir('mmhier')
    models = {}
    for metafile in load(osp.join(root, 'model-index.yml'))['Import']:
        for model in load(osp.join(root, metafile))['Models']:
            scope = _SCOPES[model['Metadata']['Training Data']]
            models[model['Name']] = scope, osp.join(root, model['Config'])
    return models


def register_model_names() -> None:
    """Let the inferencers of mmdet, mmseg and mmpretrain find our models.

    They look names up in the metafiles of their own package alone. Weights
    have to be given to them, since none are published under these names.

    Example:
        >>> from mmdet.apis import DetInferencer
        >>> from mmhier.apis import register_model_names
        >>> register_model_names()
        >>> DetInferencer('mask-rcnn_hatnet-tiny_fpn_1x_coco', 'weights.pth')
    """
    BaseInferencer._get_models_from_metafile = staticmethod(_models_of_package)
    try:
        from mmpretrain.apis.model import ModelHub
    except ImportError:
        return
    if not ModelHub.has(next(iter(model_configs()))):
        root = BaseInferencer._get_repo_or_mim_dir('mmhier')
        ModelHub.register_model_index(
            osp.join(root, 'model-index.yml'), config_prefix=root)


_listed_models = BaseInferencer._get_models_from_metafile


def _models_of_package(folder: str) -> Iterator[dict]:
    """What mmengine yields for a package's folder, and our models for it."""
    yield from _listed_models(folder)
    for name, (scope, config) in model_configs().items():
        if folder == BaseInferencer._get_repo_or_mim_dir(scope):
            yield dict(Name=name, Config=config, Weights=None)
