"""Pictures of the samples of a dataset, after its pipeline."""
import os
import os.path as osp
import tempfile
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from mmengine.registry import init_default_scope
from rich.progress import track
from mmhier.apis.inference import write_picture
from mmhier.datasets.data_checks import check_data
from mmhier.engine.config import load_config
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError
from mmhier.files import make_writable
from mmhier.visualization import annotated_pictures


def browse(config: str,
           out_dir: str,
           *,
           split: str = 'train',
           num: int | None = None,
           data_root: str | None = None,
           classes: str | Sequence[str] | None = None,
           overwrite: bool = False,
           cfg_options: dict[str, Any] | None = None) -> tuple[int, list[str]]:
    """Draw samples of a dataset after its pipeline, with annotations.

    Args:
        config (str): Config file or name of a model of mmhier.
        out_dir (str): Folder for INDEX_NAME.jpg of each sample.
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.
        num (int, optional): Number of samples. Defaults to None, all.
        data_root (str, optional): Folder for every dataset. Defaults to None,
            the config's own.
        classes (str | Sequence[str], optional): See
            :func:`mmhier.apis.load_config`.
        overwrite (bool): Write into a folder that holds files.
            Defaults to False.
        cfg_options (dict, optional): Values of the config by dotted key.

    Returns:
        tuple[int, list[str]]: Number of pictures, and samples that cannot be
        loaded, with the reason.

    Raises:
        MMHierError: If the config or its data cannot be used.
    """
    if num is not None and num < 1:
        raise MMHierError(f'--num {num}: expected at least 1')
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            config,
            work_dir=folder,
            data_root=data_root,
            classes=classes,
            cfg_options=cfg_options)
    for key in (f'{split}_dataloader', 'visualizer'):
        if cfg.get(key) is None:
            raise MMHierError(f'{config} has no {key}')
    if osp.isdir(out_dir) and os.listdir(out_dir) and not overwrite:
        raise MMHierError(f'--out-dir {out_dir} holds files: choose another '
                          'folder, or write into it with --overwrite')
    make_writable('--out-dir', out_dir)
    check_data(cfg, (split, ))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    skipped = []
    count = 0
    with naming_config_errors(cfg):
        pictures = enumerate(islice(annotated_pictures(cfg, split), num))
        for index, (name, picture) in track(
                pictures, description='Browsing', total=num):
            if isinstance(picture, np.ndarray):
                stem = osp.splitext(name)[0]
                write_picture(
                    osp.join(out_dir, f'{index:05d}_{stem}.jpg'), picture)
                count += 1
            else:
                skipped.append(f'{name}: {picture}')
    return count, skipped
