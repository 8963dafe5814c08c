"""Tables of comparable test records.

A test is compared with the published result of its config only if it used
the official data and sizes and the model and schedule of the zoo. Other tests
are grouped by data and sizes, with the reasons.
"""
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from mmengine.config import Config
from mmhier.errors import MMHierError
from mmhier.leaderboard.published import ZooModel, read_zoo
from mmhier.leaderboard.records import (
    DataRecord,
    EvaluationRecord,
    TrainingRecord,
    read_record,
)
from mmhier.leaderboard.run_facts import as_json, describe_schedule, resizing_of

# Last part of the framework's metric name by column. mmdet's values are
# fractions, and -1 without ground truth.
METRICS = {
    'detection': {
        f'{title} AP{suffix}': f'{kind}_mAP{end}'
        for title, kind in (('box', 'bbox'), ('mask', 'segm'))
        for suffix, end in (('', ''), ('50', '_50'), ('75', '_75'), ('s', '_s'),
                            ('m', '_m'), ('l', '_l'))
    },
    'segmentation': {
        name: name
        for name in ('mIoU', 'mAcc', 'aAcc')
    },
    'classification': {
        'Top 1 Accuracy': 'top1',
        'Top 5 Accuracy': 'top5'
    },
}
# Metrics with published results; the first one ranks.
MAIN_METRICS = {
    'detection': ('box AP', 'mask AP'),
    'segmentation': ('mIoU', ),
    'classification': ('Top 1 Accuracy', 'Top 5 Accuracy'),
}
FAMILIES = dict(HATNet='HAT-Net', ACCViT='ACC-ViT')


@dataclass(frozen=True)
class OfficialData:
    """Data set of published results."""
    name: str
    dataset: str
    split: str
    num_images: int
    num_classes: int


OFFICIAL = {
    'detection': OfficialData('COCO', 'CocoDataset', 'val2017', 5000, 80),
    'segmentation': OfficialData('ADE20K', 'ADE20KDataset', 'validation', 2000,
                                 150),
    'classification': OfficialData('ImageNet-1k', 'ImageNet', 'val', 50000,
                                   1000),
}


@dataclass
class Curve:
    """A value that was logged during training.

    Attributes:
        name (str): Such as 'loss' or 'mIoU'.
        points (list[tuple[float, float]]): Step and value, by step.
    """
    name: str
    points: list[tuple[float, float]]


@dataclass
class Run:
    """A row of the leaderboard.

    Attributes:
        path (Path): Of the record.
        record (EvaluationRecord): See there.
        zoo (ZooModel, optional): The config of the same name, if any.
        reasons (list[str]): Why it must not be compared with published
            results; empty if it may be.
        training_seed (int, optional): Of the training that made the
            checkpoint, where its record is there.
        curves (list[Curve]): Of that training, where its log is there.
    """
    path: Path
    record: EvaluationRecord
    zoo: ZooModel | None = None
    reasons: list[str] = field(default_factory=list)
    training_seed: int | None = None
    curves: list[Curve] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the config."""
        return Path(self.record.config).stem

    @property
    def family(self) -> str:
        """Name of the family."""
        return FAMILIES.get(self.record.model.family, self.record.model.family)

    @property
    def metrics(self) -> dict[str, float]:
        """Values in per cent by column of :data:`METRICS`, as far as known.
        """
        values: dict[str, float] = {}
        scale = 100. if self.record.task == 'detection' else 1.
        for column, key in METRICS.get(self.record.task, {}).items():
            for name, value in self.record.metrics.items():
                if (re.split('[/]', name)[-1] == key and value is not None
                        and value >= 0):
                    values.setdefault(column, scale * value)
        return values

    @property
    def published(self) -> dict[str, tuple[float, str]]:
        """Published main metrics of the config of this name, with sources."""
        published = {} if self.zoo is None else self.zoo.published
        return {
            name: published[name]
            for name in MAIN_METRICS.get(self.record.task, ())
            if name in published
        }

    @property
    def differences(self) -> dict[str, float]:
        """Own minus published value by metric, where they are comparable."""
        if self.reasons:
            return {}
        return {
            name: self.metrics[name] - value
            for name, (value, _) in self.published.items()
            if name in self.metrics
        }


@dataclass
class Table:
    """Runs that were evaluated alike, the best first.

    Attributes:
        task (str): See :class:`EvaluationRecord`.
        comparable (bool): Whether comparable with published results.
        title (str): Data and size of the images.
        runs (list[Run]): The rows.
    """
    task: str
    comparable: bool
    title: str
    runs: list[Run]


@dataclass
class Leaderboard:
    """All tables, and the files that were left out.

    Attributes:
        tables (list[Table]): Detection, segmentation, classification, others;
            in each those comparable with published results first.
        warnings (list[str]): A sentence on each file that is not a record.
    """
    tables: list[Table]
    warnings: list[str]


def build_leaderboard(folders: Sequence[str | Path]) -> Leaderboard:
    """Collect records and sort them into tables.

    Args:
        folders (Sequence[str | Path]): Searched with all folders below.

    Raises:
        MMHierError: If one is not a folder, or no record is found.
    """
    tests, trainings, warnings = _collect(folders)
    if not tests:
        raise MMHierError(
            'no record of a test below ' +
            ', '.join(str(folder) for folder in folders) +
            ': tools/test.py writes test_record_*.json to its work dir' +
            ''.join(f'; {warning}' for warning in warnings))
    zoo = read_zoo()
    runs = []
    for path, record in tests.items():
        model = zoo.get(Path(record.config).stem)
        run = Run(path, record, model, _reasons(record, model))
        training = _find_training(record, trainings)
        if training is not None:
            run.training_seed = trainings[training].seed
            run.curves = _curves(record.task,
                                 _scalar_files(training, trainings[training]))
        runs.append(run)
    _mark_minorities(runs)
    return Leaderboard(_tables(runs), warnings)


def _collect(
    folders: Sequence[str | Path]
) -> tuple[dict[Path, EvaluationRecord], dict[Path, TrainingRecord], list[str]]:
    """Records of tests and of trainings by path, and warnings."""
    tests: dict[Path, EvaluationRecord] = {}
    trainings: dict[Path, TrainingRecord] = {}
    warnings: dict[Path, str] = {}
    kinds: Sequence[tuple[type, dict[Path, Any],
                          str]] = ((EvaluationRecord, tests,
                                    'test_record_*.json'),
                                   (TrainingRecord, trainings,
                                    'train_record.json'))
    for folder in folders:
        if not Path(folder).is_dir():
            raise MMHierError(f'{folder} is not a folder: name work dirs of '
                              'tools/test.py, or a folder that holds some')
        for kind, found, pattern in kinds:
            for path in sorted(Path(folder).resolve().rglob(pattern)):
                try:
                    record = read_record(path)
                except MMHierError as error:
                    warnings[path] = f'skipped: {error}'
                    continue
                if isinstance(record, kind):
                    found[path] = record
                else:
                    warnings[path] = (f'skipped: {path} is the record of a '
                                      f'{record.kind}')
    return tests, trainings, list(warnings.values())


def _reasons(record: EvaluationRecord, zoo: ZooModel | None) -> list[str]:
    """Reasons not to compare a test with published results."""
    reasons = ['test-time augmentation'] if record.tta else []
    official = OFFICIAL.get(record.task)
    if official is None:
        return [*reasons, f'no official data is known for {record.task}']
    if len(record.data) == 1:
        reasons += _data_reasons(record.data[0], official)
    else:
        reasons.append(f'{len(record.data)} datasets together')
    if zoo is not None:
        reasons += _recipe_reasons(record, zoo)
    return reasons


def _data_reasons(data: DataRecord, official: OfficialData) -> Iterator[str]:
    if data.num_listed is not None and data.num_images < data.num_listed:
        yield (f'only {data.num_images} of the {data.num_listed} images of '
               'the split')
    if data.dataset != official.dataset:
        yield f'data read by {data.dataset}, not {official.name}'
        return
    if data.split != official.split:
        yield f'split {data.split}, not {official.split}'
    listed = data.num_images if data.num_listed is None else data.num_listed
    if listed != official.num_images:
        yield (f'{listed} images, {official.name} {official.split} has '
               f'{official.num_images}')
    if data.num_classes != official.num_classes:
        yield (f'{data.num_classes} classes, {official.name} has '
               f'{official.num_classes}')


def _recipe_reasons(record: EvaluationRecord, zoo: ZooModel) -> Iterator[str]:
    """Differences from the zoo's config of the same name."""
    resizing, test_cfg, schedule, length = _recipe(zoo.config)
    if record.resizing != resizing:
        yield (f'images at {size_text(record.resizing)}, not '
               f'{size_text(resizing)}')
    if record.test_cfg != test_cfg:
        yield 'other model.test_cfg than the zoo\'s'
    if record.model.params != zoo.params:
        yield (f'another model: {record.model.params / 1e6:.2f} M '
               f'parameters, not {zoo.params / 1e6:.2f} M')
    if record.model.schedule != schedule:
        yield f'trained for {record.model.schedule}, not {schedule}'
    else:
        unit, total = length
        done = (
            record.checkpoint_epoch
            if unit == 'epoch' else record.checkpoint_iter)
        if done is not None and total is not None and done < total:
            yield f'checkpoint after {unit} {done} of {total}'


@cache
def _recipe(path: Path) -> tuple:
    """Resizing, test_cfg, schedule and its length of a zoo config."""
    cfg = Config.fromfile(path, format_python_code=False)
    test_cfg = cfg.model.get('test_cfg')
    by_epoch = cfg.train_cfg.get('max_epochs') is not None
    length = (('epoch', cfg.train_cfg.max_epochs) if by_epoch else
              ('iteration', cfg.train_cfg.get('max_iters')))
    return (resizing_of(cfg), None if test_cfg is None else as_json(test_cfg),
            describe_schedule(cfg), length)


def size_text(resizing: Sequence[dict[str, Any]]) -> str:
    """Sizes of transforms, such as '1333x800' or '256 -> 224'."""
    sizes = []
    for step in resizing:
        value = next(
            (step[key]
             for key in ('scale', 'crop_size', 'size', 'scales', 'scale_factor')
             if step.get(key) is not None), None)
        if isinstance(value, list):
            value = 'x'.join(str(side) for side in value)
        if value is not None:
            sizes.append(str(value))
    return ' -> '.join(sizes) or 'their own size'


def _hashes(data: Sequence[DataRecord]) -> tuple:
    """Hashes of images and annotations."""
    return tuple(
        (item.images_sha256, tuple(file.sha256 for file in item.annotations))
        for item in data)


def _mark_minorities(runs: Sequence[Run]) -> None:
    """Mark runs that differ from most others on an official split."""
    by_task = defaultdict(list)
    for run in runs:
        if not run.reasons:
            by_task[run.record.task].append(run)
    for alike in by_task.values():
        _mark(alike, [_hashes(run.record.data) for run in alike],
              'images or annotations')
        others = [run for run in alike if not run.reasons]
        sizes = [size_text(run.record.resizing) for run in others]
        # Sizes of zoo configs were compared with their own recipes.
        exempt = {id(run) for run in others if run.zoo is not None}
        _mark(others, sizes, 'image size', exempt)


def _mark(runs: Sequence[Run],
          values: Sequence[Any],
          what: str,
          exempt: Collection[int] = ()) -> None:
    """Mark runs whose value differs from the most common one."""
    counts = Counter(values).most_common(2)
    if len(counts) < 2:
        return
    (common, most), (_, second) = counts
    for run, value in zip(runs, values):
        if id(run) in exempt:
            continue
        if most == second:
            run.reasons.append(f'{what} differ between runs, with no '
                               'majority')
        elif value != common:
            run.reasons.append(f'other {what} than {most} of the '
                               f'{len(runs)} runs')


def _tables(runs: Sequence[Run]) -> list[Table]:
    groups = defaultdict(list)
    for run in runs:
        record = run.record
        setting = (_hashes(record.data), size_text(record.resizing), record.tta)
        groups[record.task, not run.reasons, setting].append(run)
    tables = []
    for (task, comparable, _), rows in groups.items():
        rows.sort(key=lambda run: (-rank(run), run.name, str(run.path)))
        tables.append(Table(task, comparable, _title(rows[0]), rows))
    order = {task: i for i, task in enumerate(METRICS)}
    tables.sort(
        key=lambda table: (order.get(table.task, len(order)), table.task,
                           not table.comparable, -len(table.runs), table.title))
    return tables


def rank(run: Run) -> float:
    """Main metric, by which runs are sorted; -1 if unknown."""
    for name in MAIN_METRICS.get(run.record.task, ()):
        return run.metrics.get(name, -1.)
    return -1.


def _title(run: Run) -> str:
    """Data and image size shared by the runs of a table."""
    record = run.record
    parts = []
    for data in record.data:
        official = OFFICIAL.get(record.task)
        name = data.dataset
        if official is not None and not run.reasons:
            name = official.name
        count = f'{data.num_images} images'
        if data.num_listed not in (None, data.num_images):
            count = f'{data.num_images} of {data.num_listed} images'
        digest = f' [{data.images_sha256[:8]}]' if data.images_sha256 else ''
        parts.append(f'{name} {data.split}, {count}{digest}')
    title = f'{"; ".join(parts)}, at {size_text(record.resizing)}'
    return title + (', test-time augmentation' if record.tta else '')


def _find_training(record: EvaluationRecord,
                   trainings: dict[Path, TrainingRecord]) -> Path | None:
    """Record of the training of a checkpoint: by hash, else by folder."""
    sha256 = record.checkpoint.sha256
    for path, training in trainings.items():
        last = training.final_checkpoint
        if last is not None and sha256 is not None and last.sha256 == sha256:
            return path
    folder = Path(record.checkpoint.path).parent
    return next(
        (path
         for path in trainings if path.parent == Path(os.path.abspath(folder))),
        None)


def _scalar_files(path: Path, training: TrainingRecord) -> list[Path]:
    """mmengine's logs of a training, oldest first."""
    folder = path.parent
    files = [(folder / session.scalars).resolve()
             for session in training.sessions if '\0' not in session.scalars]
    # A record may have been edited: read only files below its folder.
    return [file for file in files if folder in file.parents and file.is_file()]


def _curves(task: str, files: Sequence[Path]) -> list[Curve]:
    """Loss and main metrics by step; later files win."""
    log: dict[str, dict[float, float]] = defaultdict(dict)
    for path in files:
        for entry in _json_lines(path):
            step = entry.get('step')
            if not _is_number(step):
                continue
            for name, value in entry.items():
                if _is_number(value):
                    log[name][step] = value
    names = ['loss'] + [
        name for column in MAIN_METRICS.get(task, ())
        for name in log if name.split('/')[-1] == METRICS[task][column]
    ]
    return [
        Curve(name, sorted(log[name].items())) for name in names if name in log
    ]


def _json_lines(path: Path) -> Iterator[dict]:
    """Entries of a log; a killed training leaves a broken last line."""
    with open(path, encoding='utf-8', errors='replace') as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry


def _is_number(value: Any) -> TypeGuard[float]:
    """Check for a finite number within the range of floats."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and abs(value) < 1e300)
