"""Resuming a small training with another config."""
import copy
import json

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.utils.data import Dataset
from mmhier.apis import MMHierError
from mmhier.checkpoints import read_checkpoint
from mmhier.engine.resuming import hash_data
from mmhier.engine.runner import Runner


class Numbers(Dataset):
    """Four numbers, read from an annotation file."""
    metainfo = dict(classes=('one', ))

    def __init__(self, path):
        self.ann_file = str(path)
        self.values = json.loads(path.read_text())

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return torch.tensor(float(self.values[i]))


class Line(BaseModel):
    """Two weights, each with an optimizer of its own if there are two."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))
        self.b = nn.Parameter(torch.ones(()))

    def forward(self, inputs, mode='loss'):
        return dict(loss=(self.a * inputs + self.b).square().mean())

    def train_step(self, data, optim_wrapper):
        if not isinstance(optim_wrapper, OptimWrapperDict):
            optim_wrapper = dict(all=optim_wrapper)
        for wrapper in optim_wrapper.values():
            self.zero_grad()
            loss = self(torch.stack(data))['loss']
            wrapper.update_params(loss)
        return dict(loss=loss)

    def val_step(self, data):
        return [1. for _ in data]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OneForEachWeight:

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.settings = optim_wrapper_cfg

    def __call__(self, model):
        return OptimWrapperDict(
            **{
                name:
                OptimWrapper(
                    getattr(torch.optim, kind)([getattr(model, name[-1])],
                                               lr=lr))
                for name, (kind, lr) in self.settings['optimizers'].items()
            })


SINGLE = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
BY_GROUP = dict(
    SINGLE, paramwise_cfg=dict(custom_keys={'b': dict(lr_mult=0.5)}))
SEVERAL = dict(
    constructor='OneForEachWeight',
    optimizers=dict(of_a=('SGD', 0.1), of_b=('AdamW', 0.2)))
STEPS = dict(type='MultiStepLR', milestones=[1], by_epoch=True)
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='loss', patience=5)


@pytest.fixture
def train(tmp_path):
    """Train for some epochs; return the weights of the last."""
    numbers = tmp_path / 'numbers.json'
    numbers.write_text('[1, 2, 3, 4]')

    def run(name, optim_wrapper, schedule, epochs=2, resume=None):
        torch.manual_seed(0)
        Runner(
            Line(),
            str(tmp_path / name),
            train_dataloader=dict(
                batch_size=2,
                dataset=Numbers(numbers),
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='pseudo_collate')),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=copy.deepcopy(optim_wrapper),
            param_scheduler=copy.deepcopy(schedule),
            custom_hooks=[dict(type='mmhier.ExactResumeHook')],
            resume=resume is not None,
            load_from=resume and str(tmp_path / resume),
            randomness=dict(seed=0),
            experiment_name=name).train()
        return read_checkpoint(tmp_path / name /
                               f'epoch_{epochs}.pth')['state_dict']

    return run


@pytest.mark.parametrize('wrapper, other, old, new, named', [
    (SINGLE, SINGLE, [], [], 'max_epochs was 2 and is 4'),
    (SEVERAL, SEVERAL, [STEPS], [dict(STEPS, milestones=[3])],
     'param_scheduler.of_a.0.milestones was {1: 1} and is {3: 1}'),
    (SEVERAL,
     dict(SEVERAL, optimizers=dict(of_a=('SGD', 0.1), of_b=('AdamW', 0.3))),
     [STEPS], [STEPS], 'initial_lr of the optimizer of_b was 0.2 and is 0.3'),
    (BY_GROUP,
     dict(SINGLE, paramwise_cfg=dict(custom_keys={'b': dict(lr_mult=0.7)})), [],
     [], 'lr of the optimizer (group 1) was 0.05 and is 0.07'),
])
def test_longer_and_other_schedules(wrapper, other, old, new, named, train,
                                    capfd):
    train('old', wrapper, old)
    capfd.readouterr()
    resumed = train('resumed', other, new, 4, 'old/epoch_2.pth')
    printed = capfd.readouterr().out
    for part in (named, 'goes on as the config says'):
        assert part in printed
    if wrapper is SINGLE:
        whole = train('whole', wrapper, new, 4)
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_same_config_is_silent(train, capfd):
    train('old', SEVERAL, [STEPS], 3)
    capfd.readouterr()
    resumed = train('resumed', SEVERAL, [STEPS], 3, 'old/epoch_2.pth')
    assert 'differs from' not in capfd.readouterr().out
    whole = train('whole', SEVERAL, [STEPS], 3)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_schedule_that_follows_a_metric(train, capfd):
    plateau = [PLATEAU]
    train('old', SINGLE, plateau)
    train('longer', SINGLE, plateau, 3, 'old/epoch_2.pth')
    assert 'max_epochs was 2 and is 3' in capfd.readouterr().out
    with pytest.raises(
            MMHierError,
            match='param_scheduler.0.patience was 5 and is 1.*cannot be '
            'repeated with other settings'):
        train('other', SINGLE, [dict(PLATEAU, patience=1)], 3,
              'old/epoch_2.pth')


@pytest.mark.parametrize('wrapper, message', [
    (BY_GROUP, '1 groups with 2 parameters, that of the config 2 with 2'),
    (SEVERAL, 'trained by SGD, the config states of_a: SGD, of_b: AdamW'),
])
def test_other_optimizers(wrapper, message, train):
    train('old', SINGLE, [])
    with pytest.raises(MMHierError, match=message):
        train('other', wrapper, [], 3, 'old/epoch_2.pth')


def test_other_names_of_optimizers(train, tmp_path):
    train('old', SEVERAL, [])
    path = tmp_path / 'old' / 'epoch_2.pth'
    content = torch.load(path, weights_only=False)
    del content['trained_with']  # as a checkpoint of mmengine's own runner
    torch.save(content, path)
    other = dict(
        SEVERAL, optimizers=dict(the_a=('SGD', 0.1), the_b=('AdamW', 0.2)))
    with pytest.raises(
            MMHierError, match='optimizers of_a, of_b, the config of the_a'):
        train('other', other, [], 3, 'old/epoch_2.pth')


def test_other_data(train, tmp_path, capfd):
    train('old', SINGLE, [])
    stored = read_checkpoint(tmp_path / 'old' / 'epoch_2.pth')['trained_with']
    numbers = tmp_path / 'numbers.json'
    numbers.write_text('[1, 2, 3, 5]')
    capfd.readouterr()
    train('resumed', SINGLE, [], 3, 'old/epoch_2.pth')
    assert (f'data was {stored["data"]} and is {hash_data(Numbers(numbers))}'
            in capfd.readouterr().out)


def test_other_classes(train, capfd, monkeypatch):
    train('old', SINGLE, [])
    monkeypatch.setattr(Numbers, 'metainfo', dict(classes=('two', )))
    capfd.readouterr()
    train('resumed', SINGLE, [], 3, 'old/epoch_2.pth')
    assert 'classes were one and are two' in capfd.readouterr().out


class Folder(Dataset):

    def __init__(self, root):
        self.data_root = str(root)
        self.paths = sorted(root.rglob('*.jpg'))

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, i):
        return dict(
            img_path=str(self.paths[i]), gt_label=len(self.paths[i].name))


def test_hash_of_a_folder(tmp_path):
    for root in ('one', 'two'):
        for i in range(3):
            path = tmp_path / root / f'{i}.jpg'
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(i))
    one, two = (hash_data(Folder(tmp_path / root)) for root in ('one', 'two'))
    assert one == two and len(one) == 16
    (tmp_path / 'two' / '1.jpg').write_bytes(bytes(9))
    assert hash_data(Folder(tmp_path / 'two')) != one
    (tmp_path / 'one' / '3.jpg').write_bytes(b'')
    assert hash_data(Folder(tmp_path / 'one')) != one
