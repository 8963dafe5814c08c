"""Checkpoints: nothing in them is executed, and unfit ones are refused."""
import os
import pickle
from pathlib import Path

import pytest
import torch
from mmhier import apis
from mmhier.apis import MMHierError
from mmhier.checkpoints import CheckpointError, read_checkpoint
from mmhier.engine.checkpoints import safe_checkpoints
from .conftest import DETECTOR


class Executes:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


class FetchesAttribute:
    """Asks for an attribute of a function when unpickled."""

    def __reduce__(self):
        return getattr, (torch.nn.Parameter, '__init__')


@pytest.fixture
def good(detector_run) -> dict:
    path = Path(detector_run.work_dir) / 'epoch_1.pth'
    return torch.load(path, weights_only=False)


@pytest.fixture
def run(coco_root, tmp_path):
    """Test or resume from what the argument holds."""

    def run_tool(checkpoint, resume=False):
        path = tmp_path / 'checkpoint.pth'
        if isinstance(checkpoint, dict):
            torch.save(checkpoint, path)
        elif isinstance(checkpoint, bytes):
            path.write_bytes(checkpoint)
        arguments = dict(
            data_root=str(coco_root), work_dir=str(tmp_path / 'work'))
        if resume:
            return apis.train(
                DETECTOR, resume=str(path), no_validate=True, **arguments)
        return apis.test(DETECTOR, str(path), **arguments)

    return run_tool


def test_missing(run):
    for resume in (False, True):
        with pytest.raises(MMHierError, match='checkpoint.pth does not exist'):
            run(None, resume=resume)


@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.99])
def test_truncated(share, detector_run, tmp_path):
    content = (Path(detector_run.work_dir) / 'epoch_1.pth').read_bytes()
    path = tmp_path / 'checkpoint.pth'
    path.write_bytes(content[:int(share * len(content))])
    with pytest.raises(CheckpointError, match='checkpoint.pth .*is truncated'):
        read_checkpoint(path)


def test_truncated_is_refused_by_the_tools(run, detector_run):
    content = (Path(detector_run.work_dir) / 'epoch_1.pth').read_bytes()
    with pytest.raises(MMHierError, match='checkpoint.pth .*is truncated'):
        run(content[:len(content) // 2])


@pytest.mark.parametrize('resume', [False, True])
def test_malicious_pickle_is_not_executed(run, good, tmp_path, resume):
    trap = tmp_path / 'executed'
    good['meta']['extra'] = Executes(trap)
    with pytest.raises(MMHierError, match='could execute code'):
        run(good, resume=resume)
    assert not trap.exists()
    # The trap works.
    torch.load(tmp_path / 'checkpoint.pth', weights_only=False)
    assert trap.exists()


def test_old_format_pickle_is_not_executed(run, tmp_path):
    trap = tmp_path / 'executed'
    with pytest.raises(MMHierError, match='was not loaded'):
        run(pickle.dumps(Executes(trap), protocol=2))
    assert not trap.exists()


def test_config_in_a_checkpoint_is_not_executed(run, good, tmp_path):
    """mmengine evaluates meta['config'] as Python when it resumes."""
    trap = tmp_path / 'executed'
    good['meta']['config'] = f'import os\nos.mkdir({str(trap)!r})'
    run(good, resume=True)
    assert not trap.exists()


def test_getattr_is_not_lent_to_a_checkpoint(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict=FetchesAttribute()), path)
    with pytest.raises(ValueError, match='getattr'):
        read_checkpoint(path)


def test_unpickling_is_forced_to_be_safe_everywhere(tmp_path):
    trap = tmp_path / 'executed'
    torch.save(Executes(trap), tmp_path / 'file.pth')
    with safe_checkpoints(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'file.pth', weights_only=False)
    assert not trap.exists()
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def test_another_network(run, good):
    weights = good['state_dict']
    good['state_dict'] = {
        name.replace('backbone', 'trunk'): value
        for name, value in weights.items()
    }
    kept = sum('backbone' not in name for name in weights)
    with pytest.raises(
            MMHierError,
            match=f'{kept} of {len(weights)} keys matched; .* missing: '
            r'backbone.*not in the model: trunk'):
        run(good)


def test_head_for_other_classes(run, good):
    """Nearly all keys match, yet the classes would be random."""
    weights = good['state_dict']
    name = 'roi_head.bbox_head.fc_cls.weight'
    weights[name] = torch.zeros(81, 32)
    with pytest.raises(
            MMHierError,
            match=f'{len(weights) - 1} of {len(weights)} keys matched; 1 of '
            f'another shape: {name}'):
        run(good)


def test_deeper_network(run, good):
    """Its first blocks have the names and shapes of the model."""
    extra = torch.zeros(1000, 1000)
    good['state_dict']['backbone.blocks.0.9.weight'] = extra
    with pytest.raises(
            MMHierError, match='1 not in the model: backbone.blocks'):
        run(good)


def test_weights_alone_cannot_be_resumed(run, good):
    with pytest.raises(MMHierError, match='no training state .*load_from'):
        run(dict(state_dict=good['state_dict']), resume=True)


def test_training_starts_from_weights_with_another_head(good, coco_root,
                                                        tmp_path):
    path = tmp_path / 'weights.pth'
    weights = good['state_dict']
    weights['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(81, 32)
    torch.save(dict(state_dict=weights), path)
    arguments = dict(
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'work'),
        no_validate=True,
        cfg_options=dict(load_from=str(path)))
    assert apis.train(DETECTOR, **arguments).iter == 3
    torch.save({'layer.weight': torch.zeros(9, 9)}, path)
    with pytest.raises(MMHierError, match=f'0 of {len(weights)} keys matched'):
        apis.train(DETECTOR, overwrite=True, **arguments)
