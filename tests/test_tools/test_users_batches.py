"""The dry run tries the batches that differ most from the first."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import nn
from mmhier.apis.checking import _DryRun
from mmhier.apis.trial_batches import other_batches
from mmhier.engine.runner import Runner

# Sides of the images; the first batch holds two of 64, the last a single one.
SIDES = (64, 64, 48, 48, 96, 96, 64)


@DATASETS.register_module()
class Photos(torch.utils.data.Dataset):
    """Images of a folder, whose sizes it states or not."""

    def __init__(self, folder, states_sizes=False, broken=()):
        self.paths = sorted(folder.glob('*.png'))
        self.states_sizes = states_sizes
        self.broken = broken
        self.opened = set()

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, i):
        info = dict(img_path=str(self.paths[i]))
        if self.states_sizes:
            info.update(width=SIDES[i], height=SIDES[i])
        return info

    def __getitem__(self, i):
        self.opened.add(i)
        if i in self.broken:
            raise OSError('broken')
        return torch.from_numpy(cv2.imread(self.paths[i])).float()


class Squares(BaseModel):
    """Refuses batches of several sizes, and single images."""

    def __init__(self, *refused):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.refused = refused
        self.seen = []

    def forward(self, inputs, mode='tensor'):
        sides = {len(image) for image in inputs}
        self.seen.append([len(image) for image in inputs])
        if len(inputs) == 1 and 'single' in self.refused:
            raise ValueError('Expected more than 1 value per channel')
        if len(sides) > 1 and 'mixed' in self.refused:
            raise RuntimeError('stack expects each tensor to be equal size')
        if sides & set(self.refused):
            raise RuntimeError('cannot take this size')
        if mode == 'loss':
            return dict(loss=self.weight *
                        torch.stack([image.mean() for image in inputs]).mean())
        return list(inputs)

    def val_step(self, data):
        return self(data, mode='predict')


class Plain(nn.Module):
    """A data preprocessor that does nothing."""

    def forward(self, data, training=False):
        return dict(inputs=data)


@pytest.fixture
def folder(tmp_path):
    for i, side in enumerate(SIDES):
        cv2.imwrite(
            str(tmp_path / f'{i}.png'), np.full((side, side, 3), i, np.uint8))
    return tmp_path


def settings(folder, batch_size=2, **dataset):
    return dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
        dataset=dict(type='Photos', folder=folder, **dataset))


@pytest.mark.parametrize('phase', ['train', 'val'])
@pytest.mark.parametrize('states_sizes', [True, False])
@pytest.mark.parametrize('refused, subjects', [
    (None, set()),
    (48, {'smallest', 'mixed-size'}),
    (96, {'largest', 'mixed-size'}),
    ('mixed', {'mixed-size'}),
    ('single', {'last'}),
])
def test_each_batch_is_tried(refused, subjects, states_sizes, phase, folder):
    model = Squares(refused)
    model.data_preprocessor = Plain()
    loader = settings(folder, states_sizes=states_sizes)
    run = _DryRun()
    if phase == 'train':
        run.check_other_batches(model, Runner.build_dataloader(loader), 1)
        assert model.weight.grad is None
    else:
        run.check_predictions(Config(dict(val_dataloader=loader)), model, phase)
    errors = {f.subject for f in run.findings if f.level == 'error'}
    end = ' batch' if phase == 'train' else ' batch of val'
    assert errors == {f'{subject}{end}' for subject in subjects}
    assert [64] in model.seen and [48, 48] in model.seen
    assert [96, 96] in model.seen and [48, 96] in model.seen


def test_losses_of_each_batch_are_finite(folder):
    model = Squares()
    model.data_preprocessor = Plain()
    nn.init.constant_(model.weight, float('inf'))
    run = _DryRun()
    run.check_other_batches(model, Runner.build_dataloader(settings(folder)), 1)
    assert [(f.level, f.subject, f.message) for f in run.findings
            ] == [('error', f'{name} batch', 'the loss is not finite')
                  for name in ('last', 'smallest', 'largest', 'mixed-size')]


def test_last_batch_of_several_processes(folder):
    loader = Runner.build_dataloader(settings(folder, 3))
    assert len(other_batches(loader)['last']) == 1
    # Four images for each of two processes, and seven for one.
    assert len(other_batches(loader, 2)['last']) == 1
    assert len(other_batches(loader, 4)['last']) == 2
    whole = Runner.build_dataloader(dict(settings(folder, 3), drop_last=True))
    assert 'last' not in other_batches(whole)


def test_synchronized_norm_sees_all_processes(folder):
    model = Squares('single')
    model.data_preprocessor = Plain()
    model.norm = nn.SyncBatchNorm(2)
    loader = Runner.build_dataloader(settings(folder, 3))
    for num_gpus, errors in ((1, 1), (2, 0)):
        run = _DryRun()
        run.check_other_batches(model, loader, num_gpus)
        assert len([f for f in run.findings if f.level == 'error']) == errors


def test_headers_of_few_images_are_read(folder, monkeypatch):
    monkeypatch.setattr('mmhier.apis.trial_batches._MAX_HEADERS', 3)
    loader = Runner.build_dataloader(settings(folder))
    (folder / '0.png').write_text('no image')
    batches = other_batches(loader)
    # Of 0, 2 and 4, evenly spread, the first of which cannot be read.
    assert batches['smallest'] == [2, 4] and not loader.dataset.opened
