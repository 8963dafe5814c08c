"""EarlyStoppingHook whose state outlives an interruption."""
import json
import os.path as osp
from typing import Any

from mmengine import hooks
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmhier.files import write_text
from mmhier.registry import HOOKS

_FILE = 'early_stopping.json'


@HOOKS.register_module()
class EarlyStoppingHook(hooks.EarlyStoppingHook):
    """EarlyStoppingHook that a resumed training goes on with.

    mmengine's forgets what it counted, so that a run that it ended trains on
    when it is resumed. Checkpoints are saved before the validation that ends
    a run, so the state goes to ``early_stopping.json`` beside them, by
    iteration.

    Args:
        **kwargs: Arguments of :class:`mmengine.hooks.EarlyStoppingHook`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._states: dict[str, dict] = {}

    def before_train(self, runner: Runner) -> None:
        """Take over the state of a resumed training, and stop if it did."""
        self._states = {}
        if not (runner._resume and runner._load_from):
            return
        path = osp.join(osp.dirname(runner._load_from), _FILE)
        if not osp.isfile(path):
            return
        with open(path, encoding='utf-8') as file:
            states = json.load(file)
        self._states = {
            i: state
            for i, state in states.items() if int(i) <= runner.iter
        }
        if not self._states:
            return
        state = self._states[max(self._states, key=int)]
        self.best_score = state['best_score']
        self.wait_count = state['wait_count']
        if state['stopped']:
            runner.train_loop.stop_training = True
            runner.logger.warning(
                'the training was ended by EarlyStoppingHook, '
                f'{state["stopped"].strip()}, and stays so: to go on, raise '
                f'its patience and remove {path}')

    def _check_stop_condition(self, current_score: float) -> tuple[bool, str]:
        self._stopped = super()._check_stop_condition(current_score)
        return self._stopped

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: dict[str, float] | None = None) -> None:
        """Decide whether to stop, and write the state."""
        self._stopped = False, ''
        super().after_val_epoch(runner, metrics)
        stopped, reason = self._stopped
        self._states[str(runner.iter)] = dict(
            best_score=self.best_score,
            wait_count=self.wait_count,
            stopped=reason if stopped else '')
        if is_main_process():
            write_text(
                osp.join(runner.work_dir, _FILE), json.dumps(self._states))
