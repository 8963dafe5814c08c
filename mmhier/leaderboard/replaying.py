"""Replay of recorded tests."""
import ast
import dataclasses
import os.path as osp
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmhier.apis.testing import run_test
from mmhier.datasets.data_checks import check_data
from mmhier.engine.config import load_config
from mmhier.engine.config_errors import naming_config_errors
from mmhier.errors import MMHierError
from mmhier.leaderboard.recording import metric_files
from mmhier.leaderboard.records import (
    DataRecord,
    EvaluationRecord,
    read_record,
)
from mmhier.leaderboard.run_facts import describe_data, describe_file


@dataclass
class ComparedValue:
    """A value of the record and of its replay.

    Attributes:
        name (str): A metric, 'bbox AP of person', or a fact of the
            environment.
        recorded (Any): None if absent or not a number.
        replayed (Any): Likewise.
        agrees (bool): Whether they are equal within the tolerance.
    """
    name: str
    recorded: Any
    replayed: Any
    agrees: bool


@dataclass
class Replay:
    """Comparison of a replay with its record.

    Attributes:
        record (EvaluationRecord): Of the replay.
        metrics (list[ComparedValue]): All metrics.
        per_class (list[ComparedValue]): All scores by class.
        environment (list[ComparedValue]): Differences of environment.
    """
    record: EvaluationRecord
    metrics: list[ComparedValue]
    per_class: list[ComparedValue]
    environment: list[ComparedValue]

    @property
    def agrees(self) -> bool:
        """Whether all metrics and scores by class agree."""
        return all(value.agrees for value in self.metrics + self.per_class)


def replay(record: str,
           *,
           checkpoint: str | None = None,
           data_root: str | None = None,
           work_dir: str | None = None,
           tolerance: float = 0.,
           launcher: str = 'none') -> Replay | None:
    """Run a recorded test again, on the same checkpoint and the same data.

    A recorded config can name any importable class, like every config:
    replay only records you trust.

    Args:
        record (str): File written by :func:`mmhier.apis.test`.
        checkpoint (str, optional): Path of the checkpoint. Defaults to None,
            the recorded one.
        data_root (str, optional): Folder of the data. Defaults to None, the
            recorded one.
        work_dir (str, optional): Folder of the new record. Defaults to None,
            that of the old one.
        tolerance (float): Largest accepted difference of metrics.
            Defaults to 0.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
            Defaults to 'none'.

    Returns:
        Replay: None in all processes but the first.

    Raises:
        MMHierError: If the record cannot be used, or checkpoint or data
            differ from the recorded ones.
    """
    if not tolerance >= 0:
        raise MMHierError(f'--tolerance {tolerance} must not be negative')
    recorded = _read(record)
    checkpoint = checkpoint or recorded.checkpoint.path
    work_dir = work_dir or osp.dirname(osp.abspath(record))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, osp.basename(recorded.config) or 'config.py')
        path.write_text(recorded.config_text, encoding='utf-8')
        cfg = load_config(
            str(path),
            work_dir=work_dir,
            data_root=data_root,
            launcher=launcher)
    cfg.randomness = dict(
        seed=recorded.seed, deterministic=recorded.deterministic)
    _check_checkpoint(checkpoint, recorded)
    _check_data(cfg, recorded)
    arguments = dict(
        replay_of=record,
        checkpoint=checkpoint,
        data_root=data_root,
        launcher=launcher)
    _, replayed = run_test(
        cfg, recorded.config, checkpoint, tta=recorded.tta, arguments=arguments)
    if replayed is None:
        return None
    return compare_records(recorded, replayed, tolerance)


def compare_records(recorded: EvaluationRecord,
                    replayed: EvaluationRecord,
                    tolerance: float = 0.) -> Replay:
    """Compare the results of two tests.

    Args:
        recorded (EvaluationRecord): Of the first.
        replayed (EvaluationRecord): Of the second.
        tolerance (float): See :func:`replay`. Defaults to 0.
    """
    classes = [{
        f'{name} of {label}': value
        for name, values in record.per_class.items()
        for label, value in values.items()
    } for record in (recorded, replayed)]
    environment = _compare(_facts(recorded), _facts(replayed), 0.)
    return Replay(
        record=replayed,
        metrics=_compare(recorded.metrics, replayed.metrics, tolerance),
        per_class=_compare(classes[0], classes[1], tolerance),
        environment=[fact for fact in environment if not fact.agrees])


def _read(path: str) -> EvaluationRecord:
    if not osp.isfile(path):
        raise MMHierError(f'record {path} does not exist')
    record = read_record(path)
    if not isinstance(record, EvaluationRecord):
        raise MMHierError(f'{path} is the record of a {record.kind}; only a '
                          'test can be replayed: give a test_record_*.json')
    if not _is_literal(record.config_text):
        raise MMHierError(f'{path}: config_text is not a dumped config, which '
                          'has nothing but assignments of values')
    return record


def _is_literal(config_text: str) -> bool:
    """Check that a config consists of names, values and dict(...) only."""
    try:
        statements = ast.parse(config_text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(
        isinstance(statement, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id != '_base_'
            for target in statement.targets) and _is_value(statement.value)
        for statement in statements)


def _is_value(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_value(node.operand)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return all(_is_value(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return all(_is_value(item) for item in (*node.keys, *node.values))
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            and node.func.id == 'dict' and not node.args
            and all(key.arg and _is_value(key.value) for key in node.keywords))


def _check_checkpoint(path: str, recorded: EvaluationRecord) -> None:
    if '://' in path:
        return
    if not osp.isfile(path):
        raise MMHierError(f'checkpoint {path} does not exist: say where it is '
                          'now with --checkpoint')
    expected = recorded.checkpoint.sha256
    found = describe_file(path).sha256
    if expected is not None and found != expected:
        raise MMHierError(
            f'checkpoint {path} is not the one that was tested: its sha256 '
            f'is {found}, recorded was {expected}')


def _check_data(cfg: Config, recorded: EvaluationRecord) -> None:
    """Compare the test set with the record."""
    check_data(cfg, ('test', ))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with naming_config_errors(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    found = describe_data(dataset, metric_files(cfg))
    if len(found) != len(recorded.data):
        raise MMHierError(f'the test set is made of {len(found)} datasets, '
                          f'recorded were {len(recorded.data)}')
    differences = [
        difference for now, then in zip(found, recorded.data)
        for difference in _data_differences(now, then)
    ]
    if differences:
        raise MMHierError('the data is not what was tested: ' +
                          '; '.join(differences))


def _data_differences(now: DataRecord, then: DataRecord) -> list[str]:
    differences = []
    if len(now.annotations) != len(then.annotations):
        differences.append(f'{len(now.annotations)} annotation files, '
                           f'recorded were {len(then.annotations)}')
    for new, old in zip(now.annotations, then.annotations):
        if new.sha256 != old.sha256:
            differences.append(
                f'annotation file {new.path} has sha256 {new.sha256}, '
                f'recorded was {old.sha256}')
    if now.images_sha256 != then.images_sha256:
        what = f'the {now.split} images in {now.data_root}'
        if now.num_images != then.num_images:
            differences.append(f'{what} are {now.num_images}, recorded were '
                               f'{then.num_images}')
        else:
            differences.append(f'{what}, or their masks, differ in names or '
                               'file sizes')
    return differences


def _facts(record: EvaluationRecord) -> dict[str, Any]:
    """Environment of a record by name."""
    facts = dataclasses.asdict(record.environment)
    facts.update(facts.pop('packages'))
    facts.update(world_size=record.world_size, precision=record.precision)
    return facts


def _compare(recorded: dict[str, Any], replayed: dict[str, Any],
             tolerance: float) -> list[ComparedValue]:
    compared = []
    for name in dict.fromkeys((*recorded, *replayed)):
        first, second = recorded.get(name), replayed.get(name)
        agrees = first == second and (name in recorded) == (name in replayed)
        if isinstance(first, float) and isinstance(second, float):
            agrees = abs(first - second) <= tolerance
        compared.append(ComparedValue(name, first, second, agrees))
    return compared
