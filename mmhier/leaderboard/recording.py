"""Hooks that write records of runs; see mmhier.leaderboard.records."""
import os.path as osp
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from mmhier.engine.config import iter_metrics, type_name
from mmhier.errors import MMHierError
from mmhier.leaderboard.records import (
    VERSION,
    CostRecord,
    EvaluationRecord,
    TrainingRecord,
    TrainingSession,
    UnfinishedRecord,
    read_record,
    remove_interrupted,
    utc_now,
    write_record,
)
from mmhier.leaderboard.run_facts import (
    TASKS,
    as_json,
    describe_data,
    describe_environment,
    describe_file,
    describe_model,
    peak_memory,
    resizing_of,
)
from mmhier.registry import HOOKS

TRAINING_RECORD = 'train_record.json'


class Stopwatch:
    """Time and memory from its start on.

    Attributes:
        seconds (float): Until the latest call of :meth:`note`.
    """

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()
        self.seconds = 0.

    def note(self) -> None:
        """Take the time."""
        self.seconds = time.perf_counter() - self._start

    def cost(self, num_images: int) -> CostRecord:
        """Cost of handling so many images until :meth:`note`."""
        memory, memory_of = peak_memory()
        rate = num_images / self.seconds if self.seconds > 0 else 0.
        return CostRecord(self.seconds, rate, memory, memory_of)


@HOOKS.register_module()
class EvaluationRecordHook(Hook):
    """Collects the record of a test.

    Args:
        cfg (Config): Of the test, without test-time augmentation.
        config (str): Its path.
        checkpoint (str): What is tested.
        tta (bool): Whether there is test-time augmentation after all.
        arguments (dict): Of :func:`mmhier.apis.test`.
    """
    priority = 'LOWEST'

    def __init__(self, cfg: Config, config: str, checkpoint: str, tta: bool,
                 arguments: dict[str, Any]):
        self.cfg = cfg
        self.config = config
        self.checkpoint = checkpoint
        self.tta = tta
        self.arguments = arguments
        self.config_text = cfg.pretty_text
        self.started = utc_now()
        self.progress: dict[str, Any] = {}
        self.sizes: list[Sequence[int]] = []
        self.watch: Stopwatch | None = None
        self._unfinished: UnfinishedRecord | None = None

    @master_only
    def announce(self) -> None:
        """Take the record's place in the work dir, and tidy up there."""
        for sentence in remove_interrupted(self.cfg.work_dir):
            print_log(sentence, logger='current')
        stamp = time.strftime('%Y%m%d_%H%M%S')
        self._unfinished = UnfinishedRecord(
            self.cfg.work_dir,
            f'test_record_{stamp}',
            config=self.config,
            checkpoint=self.checkpoint)

    @master_only
    def discard(self) -> None:
        """Give the record's place up, unless it was written."""
        if self._unfinished is not None:
            self._unfinished.discard()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep how long the checkpoint was trained."""
        meta = checkpoint.get('meta')
        if isinstance(meta, dict):
            self.progress = {
                key: meta[key]
                for key in ('epoch', 'iter') if isinstance(meta.get(key), int)
            }

    def before_test_epoch(self, runner: Runner) -> None:
        """Start the watch."""
        self.watch = Stopwatch()

    def after_test_iter(self,
                        runner: Runner,
                        batch_idx: int,
                        data_batch: Any = None,
                        outputs: Any = None) -> None:
        """Keep the sizes of the images, and the time."""
        inputs = data_batch.get('inputs') if isinstance(data_batch,
                                                        dict) else None
        if isinstance(inputs, (list, tuple, torch.Tensor)):
            self.sizes += [
                tuple(image.shape[-2:]) for image in inputs
                if isinstance(image, torch.Tensor)
            ]
        assert self.watch is not None
        self.watch.note()

    @master_only
    def finish(self, runner: Runner, metrics: dict[str, Any],
               per_class: dict) -> EvaluationRecord:
        """Write the record.

        Args:
            runner (Runner): After the test.
            metrics (dict): Of the test.
            per_class (dict): See :class:`EvaluationRecord`.
        """
        size = None
        if self.sizes and not self.tta:
            size = [int(side) for side in np.median(self.sizes, axis=0)]
        dataset = runner.test_loop.dataloader.dataset
        test_cfg = self.cfg.model.get('test_cfg')
        assert self.watch is not None and self._unfinished is not None
        cost = self.watch.cost(len(dataset))
        record = EvaluationRecord(
            **_run_facts(runner, self.cfg, EvaluationRecord.KIND, 'test',
                         self.config, self.config_text, self.arguments,
                         self.started, size),
            finished=utc_now(),
            checkpoint=describe_file(self.checkpoint),
            checkpoint_epoch=self.progress.get('epoch'),
            checkpoint_iter=self.progress.get('iter'),
            tta=self.tta,
            resizing=resizing_of(self.cfg),
            test_cfg=None if test_cfg is None else as_json(test_cfg),
            metrics=_plain_numbers(metrics),
            per_class=per_class,
            cost=cost)
        path = self._unfinished.finish(record)
        print_log(f'record of this test: {path}', logger='current')
        return record


@HOOKS.register_module()
class TrainingRecordHook(Hook):
    """Writes the record of a training when it starts and when it ends.

    Args:
        config (str, optional): Path of the config. Defaults to None, the
            file that the runner's config was read from.
        arguments (dict, optional): Arguments of :func:`mmhier.apis.train`.
            Defaults to None.
    """
    priority = 'LOWEST'

    def __init__(self,
                 config: str | None = None,
                 arguments: dict[str, Any] | None = None):
        self.config = config
        self.arguments = arguments or {}
        self.path = ''
        self.record: TrainingRecord | None = None
        self.watch: Stopwatch | None = None

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Write the facts known at the start, after any resume."""
        self.path = osp.join(runner.work_dir, TRAINING_RECORD)
        session = TrainingSession(
            started=utc_now(),
            finished=None,
            first_iter=runner.iter,
            last_iter=None,
            scalars=osp.join(
                osp.relpath(runner.log_dir, runner.work_dir), 'vis_data',
                'scalars.json'))
        earlier = self._earlier_sessions(runner) if runner.iter else []
        started = earlier[0].started if earlier else session.started
        self.record = TrainingRecord(
            **_run_facts(runner, runner.cfg, TrainingRecord.KIND, 'train',
                         self.config or str(runner.cfg.filename),
                         runner.cfg.pretty_text, self.arguments, started, None),
            sessions=[*earlier, session],
            final_checkpoint=None,
            cost=None)
        write_record(self.record, self.path)
        self.watch = Stopwatch()

    def _earlier_sessions(self, runner: Runner) -> list[TrainingSession]:
        if not osp.exists(self.path):
            return []
        try:
            earlier = read_record(self.path)
        except MMHierError as error:
            runner.logger.warning(f'earlier sessions are left out: {error}')
            return []
        if not isinstance(earlier, TrainingRecord):
            return []
        if earlier.sessions and earlier.sessions[-1].finished is None:
            runner.logger.info(
                'the training that started at '
                f'{earlier.sessions[-1].started} was interrupted; resumed at '
                f'iteration {runner.iter}')
        return earlier.sessions

    @master_only
    def after_run(self, runner: Runner) -> None:
        """Complete the record.

        Runs after training only: a test has no ``before_train``.
        """
        if self.record is None:
            return
        assert self.watch is not None
        self.watch.note()
        session = self.record.sessions[-1]
        session.finished = utc_now()
        session.last_iter = runner.iter
        loader = runner.train_dataloader
        batch_size = getattr(loader, 'batch_size', None) or 1
        num_images = ((runner.iter - session.first_iter) * batch_size *
                      runner.world_size)
        self.record.cost = self.watch.cost(num_images)
        last = runner.message_hub.get_info('last_ckpt')
        if last is not None and osp.isfile(last):
            self.record.final_checkpoint = describe_file(last)
        write_record(self.record, self.path)


def metric_files(cfg: Config) -> list[str]:
    """Annotation files of the metrics of a test."""
    metrics = iter_metrics(cfg.get('test_evaluator'), 'test_evaluator')
    return [
        metric['ann_file'] for _, metric in metrics
        if isinstance(metric.get('ann_file'), str)
    ]


def _run_facts(runner: Runner, cfg: Config, kind: str, phase: str, config: str,
               config_text: str, arguments: dict[str, Any], started: str,
               image_size: Sequence[int] | None) -> dict:
    """Fields of :class:`RunRecord`."""
    loop = getattr(runner, f'{phase}_loop')
    files = metric_files(cfg) if phase == 'test' else []
    return dict(
        version=VERSION,
        kind=kind,
        started=started,
        command=list(sys.argv),
        arguments={
            key: as_json(value)
            for key, value in arguments.items() if value is not None
        },
        config=config,
        config_text=config_text,
        work_dir=cfg.work_dir,
        task=TASKS.get(cfg.get('default_scope'), str(cfg.get('default_scope'))),
        data=describe_data(loop.dataloader.dataset, files),
        environment=describe_environment(),
        model=describe_model(cfg, _unwrap(runner.model), image_size),
        seed=runner.seed,
        deterministic=torch.backends.cudnn.deterministic,
        launcher=cfg.get('launcher', 'none'),
        world_size=runner.world_size,
        precision=_precision(cfg, phase))


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _precision(cfg: Config, phase: str) -> str:
    if phase == 'test':
        loop = cfg.get('test_cfg') or {}
        if type_name(loop.get('type')) == 'AutocastTestLoop':
            return loop.get('dtype', 'bfloat16')
        return 'float16' if loop.get('fp16') else 'float32'
    wrapper = cfg.get('optim_wrapper') or {}
    kind = type_name(wrapper.get('type'))
    if kind.endswith('AutocastOptimWrapper'):
        return 'bfloat16'
    if kind.endswith('AmpOptimWrapper'):
        return wrapper.get('dtype') or 'float16'
    return 'float32'


def _plain_numbers(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Metrics that are one number each; None for NaN and infinity."""
    numbers = {}
    for name, value in metrics.items():
        is_scalar = isinstance(value,
                               np.generic) or (isinstance(value, torch.Tensor)
                                               and value.numel() == 1)
        if is_scalar:
            value = value.item()
        if isinstance(value, (int, float)):
            numbers[name] = float(value) if np.isfinite(value) else None
    return numbers
