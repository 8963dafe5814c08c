"""Configs of the zoo in mmdet's own trainer, which mmhier has no part in."""
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from .pages import ROOT

TRAIN = Path(
    importlib.util.find_spec('mmdet').origin).parent / '.mim/tools/train.py'
CONFIG = ROOT / 'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py'
OPTIONS = '''
train_dataloader.batch_size=2
train_dataloader.num_workers=0
train_dataloader.persistent_workers=False
train_dataloader.dataset.metainfo.classes=("box","bar","tile")
train_dataloader.dataset.pipeline.2.scale=(96,64)
model.backbone.init_cfg=None
model.roi_head.bbox_head.num_classes=3
model.roi_head.mask_head.num_classes=3
model.train_cfg.rpn_proposal.max_per_img=20
model.train_cfg.rcnn.sampler.num=16
train_dataloader.dataset.indices=4
train_cfg.max_epochs=1
default_hooks.logger.interval=1
val_cfg=None
val_dataloader=None
val_evaluator=None
'''.split()


@pytest.mark.slow
def test_mmdets_own_trainer(coco_root, tmp_path):
    """Two iterations."""
    process = subprocess.run([
        sys.executable, TRAIN, CONFIG, '--work-dir', tmp_path / 'work',
        '--cfg-options', f'train_dataloader.dataset.data_root={coco_root}',
        *OPTIONS
    ],
                             capture_output=True,
                             text=True,
                             cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
    printed = process.stdout + process.stderr
    losses = re.findall(r'\[1\]\[[12]/2\] .* loss: ([\d.]+) ', printed)
    assert len(losses) == 2 and all(float(loss) < 20 for loss in losses)
    assert (tmp_path / 'work/epoch_1.pth').is_file()
