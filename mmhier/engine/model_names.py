"""Models of mmhier by the names in its metafiles."""
import os.path as osp
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


def config_path(config: str) -> str:
    """Path of a config, given by its path or by the name of its model.

    The inferencers of mmdet, mmseg and mmpretrain look names up in the
    metafiles of their own package alone, but take any path.

    Args:
        config (str): Name of a model of mmhier; anything else is returned
            as it is.

    Example:
        >>> from mmdet.apis import DetInferencer
        >>> from mmhier.apis import config_path
        >>> DetInferencer(
        ...     config_path('mask-rcnn_hatnet-tiny_fpn_1x_coco'), 'weights.pth')
    """
    if not osp.exists(config) and config in model_configs():
        return model_configs()[config][1]
    return config
