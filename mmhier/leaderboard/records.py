"""Json records of training and test runs: schema, reading and writing.

:class:`EvaluationRecord` and :class:`TrainingRecord` are the schema. Their
files are plain json; reading one executes nothing.
"""
import dataclasses
import itertools
import json
import math
import os
import socket
import types
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from filelock import FileLock
from mmhier.errors import MMHierError
from mmhier.files import write_text
from mmhier.leaderboard.locks import drop_lock, take_lock

VERSION = 1
UNFINISHED = '.unfinished'


@dataclass
class FileRecord:
    """A file that a run read.

    Attributes:
        path (str): As the run was given it.
        size (int, optional): In bytes; None for a remote file.
        sha256 (str, optional): None for a remote file.
    """
    path: str
    size: int | None
    sha256: str | None


@dataclass
class DataRecord:
    """A dataset that a run read.

    Attributes:
        dataset (str): Name of the class.
        split (str): Last folder of the images, such as 'val2017'.
        data_root (str): As the run was given it.
        annotations (list[FileRecord]): Files of the dataset and of the
            metrics; empty if masks or class folders hold the labels.
        num_images (int): Images that were read.
        num_listed (int, optional): Images in the annotation file or in the
            folder. None where neither can be counted.
        images_sha256 (str, optional): Hash over the paths below data_root
            and the sizes in bytes of images and masks, in order. None for a
            dataset that does not list files.
        num_classes (int, optional): None for a dataset without class names.
    """
    dataset: str
    split: str
    data_root: str
    annotations: list[FileRecord]
    num_images: int
    num_listed: int | None
    images_sha256: str | None
    num_classes: int | None


@dataclass
class EnvironmentRecord:
    """Software and hardware of a run.

    Attributes:
        python (str): Its version.
        platform (str): Operating system and machine.
        device (str): Name of the GPU, or of the processor.
        num_threads (int): Of torch on the CPU.
        packages (dict[str, str]): Versions by distribution.
        operators (str): See :func:`mmhier.ops.operator_source`.
        commit (str, optional): Of the checkout that mmhier is in, ending
            with '-dirty' if tracked files were changed.
    """
    python: str
    platform: str
    device: str
    num_threads: int
    packages: dict[str, str]
    operators: str
    commit: str | None


@dataclass
class ModelRecord:
    """A model and its cost.

    Attributes:
        type (str): Class of the whole model.
        family (str): Class of the backbone.
        variant (str): ``arch`` of the backbone, 'custom' for a dict.
        head (str): Class of the model of a detector, of the decode head of a
            segmentor, of the head of a classifier.
        schedule (str): Such as '12 epochs'.
        params (int): Number of parameters.
        macs (int, optional): Multiply-adds of one image of ``macs_size``.
        macs_size (list[int], optional): Height and width in pixels: the
            medians of the images that the model was given.
    """
    type: str
    family: str
    variant: str
    head: str
    schedule: str
    params: int
    macs: int | None
    macs_size: list[int] | None


@dataclass
class CostRecord:
    """Time and memory, measured.

    Attributes:
        seconds (float): From the first batch to the last, data loading
            included, building and metrics not.
        images_per_second (float): Of all processes together.
        peak_memory (int, optional): Bytes: allocated on the GPU, else
            resident in the process since it started; None on Windows.
        memory_of (str): 'CUDA allocator', 'resident' or 'not measured'.
    """
    seconds: float
    images_per_second: float
    peak_memory: int | None
    memory_of: str


@dataclass
class RunRecord:
    """Fields shared by records of training and of testing.

    Attributes:
        version (int): Of the schema.
        kind (str): 'evaluation' or 'training'.
        started (str): Time in UTC, ISO 8601.
        command (list[str]): ``sys.argv``.
        arguments (dict): Of :func:`mmhier.apis.train` or ``test``, without
            those left out.
        config (str): Path of the config.
        config_text (str): The whole config after all overrides, as Python.
        work_dir (str): Where the record was written.
        task (str): 'detection', 'segmentation' or 'classification', else the
            default scope of the config.
        data (list[DataRecord]): Below wrappers such as ConcatDataset.
        environment (EnvironmentRecord): See there.
        model (ModelRecord): See there.
        seed (int): Of the runner.
        deterministic (bool): Whether cuDNN was set to be deterministic.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
        world_size (int): Number of processes.
        precision (str): 'float32', 'float16' or 'bfloat16'.
    """
    version: int
    kind: str
    started: str
    command: list[str]
    arguments: dict[str, Any]
    config: str
    config_text: str
    work_dir: str
    task: str
    data: list[DataRecord]
    environment: EnvironmentRecord
    model: ModelRecord
    seed: int
    deterministic: bool
    launcher: str
    world_size: int
    precision: str


@dataclass
class EvaluationRecord(RunRecord):
    """A finished test: ``test_record_<time>.json`` in the work dir.

    Attributes:
        finished (str): Time in UTC, ISO 8601.
        checkpoint (FileRecord): The checkpoint tested.
        checkpoint_epoch (int, optional): Epochs it was trained for.
        checkpoint_iter (int, optional): Iterations it was trained for.
        tta (bool): Whether test-time augmentation was on.
        resizing (list[dict]): Transforms of the test pipeline that change
            the size of images.
        test_cfg (dict): ``model.test_cfg``: thresholds and sliding windows.
        metrics (dict[str, float]): By the names of the framework; None for
            one that is not a number.
        per_class (dict[str, dict[str, float]]): By 'bbox AP', 'segm AP',
            'IoU' or 'Acc', then by class, in [0, 1]; None for a class
            without ground truth.
        cost (CostRecord): See there.
    """
    KIND: ClassVar[str] = 'evaluation'

    finished: str
    checkpoint: FileRecord
    checkpoint_epoch: int | None
    checkpoint_iter: int | None
    tta: bool
    resizing: list[dict[str, Any]]
    test_cfg: dict[str, Any] | None
    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    cost: CostRecord


@dataclass
class TrainingSession:
    """One start of a training, resumed or not.

    Attributes:
        started (str): Time in UTC, ISO 8601.
        finished (str, optional): None while it runs and after an
            interruption.
        first_iter (int): Iterations done before.
        last_iter (int, optional): Iterations done at its end.
        scalars (str): mmengine's log of losses and metrics, below work_dir.
    """
    started: str
    finished: str | None
    first_iter: int
    last_iter: int | None
    scalars: str


@dataclass
class TrainingRecord(RunRecord):
    """A training: ``train_record.json`` in the work dir.

    Written when training starts and again when it ends. Everything but
    ``sessions`` describes the last session.

    Attributes:
        sessions (list[TrainingSession]): The first start and each resume.
        final_checkpoint (FileRecord, optional): None until the end.
        cost (CostRecord, optional): Of the last session; None until the end.
    """
    KIND: ClassVar[str] = 'training'

    sessions: list[TrainingSession]
    final_checkpoint: FileRecord | None
    cost: CostRecord | None


def utc_now() -> str:
    """Time in UTC to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def read_record(path: str | Path) -> RunRecord:
    """Read and check a record.

    Args:
        path (str | Path): Written by :func:`write_record`.

    Returns:
        EvaluationRecord | TrainingRecord: By the file's ``kind``.

    Raises:
        MMHierError: If the file cannot be read, is no json, no record or
            written by a newer mmhier, or lacks a value or holds one of
            another type.
    """
    try:
        content = json.loads(
            Path(path).read_text(encoding='utf-8'),
            parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise MMHierError(f'{path} is not readable json: {error}') from error
    kinds = {cls.KIND: cls for cls in (EvaluationRecord, TrainingRecord)}
    kind = content.get('kind') if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise MMHierError(f'{path} is not a record of a run: its kind is '
                          f'{kind!r}, not one of {", ".join(kinds)}')
    if content.get('version') != VERSION:
        raise MMHierError(f'{path} has version {content.get("version")!r}, '
                          f'this mmhier reads version {VERSION}')
    try:
        return _from_json(kinds[kind], content, '')
    except MMHierError as error:
        raise MMHierError(f'{path}: {error}') from error


def write_record(record: RunRecord, path: str | Path) -> None:
    """Write a record.

    Args:
        record (RunRecord): Its numbers must be finite.
        path (str | Path): Replaced if it exists.
    """
    write_text(path, record_text(record))


def record_text(record: RunRecord) -> str:
    """Json of a record."""
    return json.dumps(
        dataclasses.asdict(record), indent=1, allow_nan=False) + '\n'


class UnfinishedRecord:
    """Reserved name of a record, until the test of the process ends.

    The file ``NAME.json.unfinished`` describes the run and is locked by a
    file beside it. A killed process leaves both behind without a lock.

    Args:
        folder (str | Path): Work dir.
        stem (str): Name of the record without a suffix; '_2' and so on are
            appended if it is taken.
        **about (str): Description of the run, reported if it is interrupted.
    """

    def __init__(self, folder: str | Path, stem: str, **about: str):
        for number in itertools.count(1):
            name = stem if number == 1 else f'{stem}_{number}'
            self.target = Path(folder, f'{name}.json')
            self.path = Path(folder, f'{name}.json{UNFINISHED}')
            lock = take_lock(_lock_file(self.path))
            if lock is None:
                continue
            if not self.target.exists() and not self.path.exists():
                break
            drop_lock(lock)
        self._lock: FileLock | None = lock
        about = dict(about, started=utc_now(), host=socket.gethostname())
        write_text(self.path, json.dumps(about))

    def finish(self, record: RunRecord) -> Path:
        """Write the record under its final name, and return its path."""
        write_record(record, self.path)
        os.replace(self.path, self.target)
        self.discard()
        return self.target

    def discard(self) -> None:
        """Give the name up; no effect after :meth:`finish`."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            drop_lock(self._lock)
            self._lock = None


def remove_interrupted(folder: str | Path) -> list[str]:
    """Remove the unfinished records of killed processes.

    Args:
        folder (str | Path): Work dir. Files of running processes are kept.

    Returns:
        list[str]: A sentence on each interrupted run.
    """
    sentences = []
    for path in sorted(Path(folder).glob(f'*.json{UNFINISHED}')):
        lock = take_lock(_lock_file(path))
        if lock is None:
            continue
        try:
            about = json.loads(path.read_bytes())
            which = (f'the test of {about["checkpoint"]} that started at '
                     f'{about["started"]} on {about["host"]}')
        except (ValueError, KeyError, TypeError):
            which = 'an earlier test'
        path.unlink()
        drop_lock(lock)
        sentences.append(f'{which} was interrupted and left no record; '
                         f'removed {path.name}')
    return sentences


def _lock_file(path: Path) -> Path:
    return path.with_name(f'.{path.name}.lock')


def _refuse_constant(name: str) -> None:
    raise MMHierError(f'{name} is not json')


def _from_json(kind: Any, content: Any, where: str) -> Any:
    """Build a dataclass, or check a value of any other annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if origin is types.UnionType:
        if content is None:
            return None
        return _from_json(inner[0], content, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        _check_type(content, dict, where)
        hints = get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        missing = [name for name in names if name not in content]
        if missing:
            raise MMHierError(f'{where or "the record"} lacks '
                              f'{", ".join(missing)}')
        return kind(
            **{
                name:
                _from_json(hints[name], content[name], f'{where}.{name}'.lstrip(
                    '.'))
                for name in names
            })
    if origin is list:
        _check_type(content, list, where)
        return [
            _from_json(inner[0], item, f'{where}[{i}]')
            for i, item in enumerate(content)
        ]
    if origin is dict:
        _check_type(content, dict, where)
        return {
            key: _from_json(inner[1], item, f'{where}[{key!r}]')
            for key, item in content.items()
        }
    if kind is float and type(content) is int and abs(content) < 2**53:
        content = float(content)
    _check_type(content, kind, where)
    if kind is float and not math.isfinite(content):
        raise MMHierError(f'{where} is not a finite number')
    return content


def _check_type(content: Any, kind: type, where: str) -> None:
    if not isinstance(content, kind) or (isinstance(content, bool)
                                         and kind is not bool):
        raise MMHierError(f'{where or "the record"} is a '
                          f'{type(content).__name__}, expected a '
                          f'{kind.__name__}')
