"""Runner and hooks that train() adds to any config."""
import subprocess
import sys
from types import SimpleNamespace

import mmengine.hooks
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmhier.engine.environment import unique_timestamp
from mmhier.engine.hooks import FiniteLossHook
from mmhier.engine.runner import complete_runtime, set_hook
from mmhier.errors import MMHierError

HOOKS = ('CheckpointFitHook', 'FiniteLossHook', 'ExactResumeHook',
         'TrainingRecordHook')


def hook_types(cfg: Config) -> list:
    return [hook['type'] for hook in cfg.custom_hooks]


def test_hooks_of_the_user_keep_their_place():
    own = dict(type='mmhier.ExactResumeHook')
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook'), own]))
    complete_runtime(cfg)
    complete_runtime(cfg)
    types = hook_types(cfg)
    assert types[:2] == ['EMAHook', 'mmhier.ExactResumeHook']
    assert sorted(types[1:]) == sorted(f'mmhier.{name}' for name in HOOKS)
    set_hook(cfg, 'mmhier.CheckpointFitHook', complete=True)
    changed = dict(type='mmhier.CheckpointFitHook', complete=True)
    assert changed in cfg.custom_hooks


@pytest.mark.parametrize('stated, expected', [
    (None, 'mmhier.Runner'),
    ('Runner', 'mmhier.Runner'),
    ('FlexibleRunner', 'mmhier.FlexibleRunner'),
])
def test_runners_of_mmengine_are_replaced(stated, expected):
    cfg = Config(dict() if stated is None else dict(runner_type=stated))
    complete_runtime(cfg)
    assert cfg.runner_type == expected


def test_a_runner_of_another_kind_is_refused():
    with pytest.raises(MMHierError, match='runner_type=OtherRunner'):
        complete_runtime(Config(dict(runner_type='OtherRunner')))


@pytest.mark.parametrize('saving, expected', [
    (dict(type='CheckpointHook', interval=2), 'mmhier.CheckpointHook'),
    (dict(type=mmengine.hooks.CheckpointHook), 'mmhier.CheckpointHook'),
    (dict(type='TheirHook'), 'TheirHook'),
])
def test_checkpoints_are_removed_late(saving, expected):
    cfg = Config(dict(default_hooks=dict(checkpoint=saving)))
    complete_runtime(cfg)
    assert cfg.default_hooks.checkpoint.type == expected


def test_overflows_are_left_to_the_gradient_scaler():
    hub = MessageHub('overflows')
    runner = SimpleNamespace(
        message_hub=hub,
        iter=0,
        work_dir='work',
        model=torch.nn.Linear(1, 1),
        optim_wrapper=SimpleNamespace(loss_scaler=object()))
    hook = FiniteLossHook()

    def step(loss: float) -> None:
        hub.update_scalar('train/loss', loss)
        # Not looked at: reading it would wait for the device.
        hook.after_train_iter(runner, 0, None, dict(loss=None))

    for loss in [float('inf')] * 19 + [1.] + [float('nan')] * 19:
        step(loss)
    with pytest.raises(MMHierError, match='loss is not finite in iteration 1'):
        step(float('nan'))
    del runner.optim_wrapper.loss_scaler
    step(1.)
    with pytest.raises(MMHierError, match='weights are still finite'):
        step(float('inf'))


def test_timestamps_differ_within_a_second():
    assert [unique_timestamp('20260101_000000') for _ in range(3)
            ] == ['20260101_000000', '20260101_000000_2', '20260101_000000_3']


def test_windows_lacks_two_modules():
    code = ('import sys\n'
            'sys.modules["resource"] = sys.modules["fcntl"] = None\n'
            'import mmhier.apis, mmhier.leaderboard.recording\n'
            'from mmhier.leaderboard.run_facts import peak_memory\n'
            'assert peak_memory() == (None, "not measured")\n')
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
