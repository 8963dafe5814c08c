"""Records that tests and trainings leave, and replays of them."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mmhier import apis
from mmhier.cli import replay as replay_command
from mmhier.leaderboard import replaying
from mmhier.leaderboard.records import read_record, write_record
from mmhier.leaderboard.replaying import compare_records, replay
from mmhier.leaderboard.tables import build_leaderboard
from ..lanes import fast_first
from . import samples
from .conftest import CONFIGS, DETECTOR

TOOLS = Path(__file__).parents[2] / 'tools'
SEGMENTOR = str(CONFIGS / 'segmentor.py')


def only_record(folder) -> Path:
    path, = Path(folder).glob('test_record_*')
    assert path.suffix == '.json'
    return path


@pytest.fixture(scope='module')
def tested(detector_run, coco_root, tmp_path_factory):
    """Metrics of a test of the slim detector, and the path of its record."""
    work_dir = tmp_path_factory.mktemp('tested')
    metrics = apis.test(
        DETECTOR,
        str(Path(detector_run.work_dir) / 'epoch_1.pth'),
        data_root=str(coco_root),
        work_dir=str(work_dir),
        cfg_options={'model.test_cfg.rcnn.max_per_img': 9})
    return metrics, only_record(work_dir)


def test_the_record_of_a_test(tested, detector_run, coco_root):
    metrics, path = tested
    record = read_record(path)
    assert record.task == 'detection'
    assert record.config == DETECTOR
    assert record.arguments['cfg_options'] == {
        'model.test_cfg.rcnn.max_per_img': 9
    }
    # The config is the one after overrides.
    assert 'max_per_img=9' in record.config_text
    assert str(coco_root) in record.config_text
    assert record.test_cfg['rcnn']['max_per_img'] == 9
    checkpoint = Path(detector_run.work_dir) / 'epoch_1.pth'
    assert record.checkpoint.sha256 == hashlib.sha256(
        checkpoint.read_bytes()).hexdigest()
    assert record.checkpoint.size == checkpoint.stat().st_size
    assert (record.checkpoint_epoch, record.checkpoint_iter) == (1, 3)
    data, = record.data
    assert (data.split, data.num_images, data.num_listed) == ('val2017', 6, 6)
    annotations = coco_root / 'annotations/instances_val2017.json'
    assert [file.sha256 for file in data.annotations
            ] == [hashlib.sha256(annotations.read_bytes()).hexdigest()]
    assert record.resizing == [
        dict(type='Resize', scale=[96, 64], keep_ratio=True)
    ]
    assert record.metrics == pytest.approx(metrics)
    assert record.metrics['coco/bbox_mAP'] > 0
    for kind in ('bbox', 'segm'):
        values = record.per_class[f'{kind} AP']
        assert list(values) == list(samples.CLASSES)
        mean = sum(values.values()) / 3
        assert mean == pytest.approx(
            record.metrics[f'coco/{kind}_mAP'], abs=5e-4)
    model = detector_run.model
    assert record.model.params == sum(p.numel() for p in model.parameters())
    assert record.model.macs > 0 and record.model.macs_size == [64, 96]
    assert (record.model.family, record.model.head,
            record.model.schedule) == ('HATNet', 'MaskRCNN', '1 epoch')
    assert record.cost.images_per_second == pytest.approx(6 /
                                                          record.cost.seconds)
    assert record.cost.peak_memory > 10**8
    assert record.started <= record.finished


def test_a_part_of_the_images_is_scored_by_itself(detector_run, coco_root,
                                                  tmp_path):
    """As with an annotation file that lists no other images."""
    root = Path(shutil.copytree(coco_root, tmp_path / 'data'))
    path = root / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    content['images'] = content['images'][3:]
    path.write_text(json.dumps(content))
    scores = [
        apis.test(
            DETECTOR,
            str(Path(detector_run.work_dir) / 'epoch_1.pth'),
            data_root=str(data_root),
            work_dir=str(tmp_path / data_root.name),
            cfg_options={'test_dataloader.dataset.indices': indices})
        for data_root, indices in ((Path(coco_root), [3, 4, 5]), (root, None))
    ]
    assert scores[0] == pytest.approx(scores[1]) and max(scores[0].values()) > 0
    record = read_record(only_record(tmp_path / Path(coco_root).name))
    assert (record.data[0].num_images, record.data[0].num_listed) == (3, 6)


def test_the_record_of_a_training(detector_run):
    record = read_record(Path(detector_run.work_dir) / 'train_record.json')
    session, = record.sessions
    assert (session.first_iter, session.last_iter) == (0, 3)
    assert session.started <= session.finished
    assert (Path(detector_run.work_dir) / session.scalars).is_file()
    data, = record.data
    # The one without annotations is left out.
    assert (data.split, data.num_images, data.num_listed) == ('train2017', 5, 6)
    assert record.seed == 0
    checkpoint = Path(detector_run.work_dir) / 'epoch_1.pth'
    assert record.final_checkpoint.sha256 == hashlib.sha256(
        checkpoint.read_bytes()).hexdigest()


def test_an_interrupted_training_shows_and_is_continued(detector_run, coco_root,
                                                        tmp_path):
    for name in ('epoch_1.pth', 'train_record.json'):
        shutil.copy(Path(detector_run.work_dir) / name, tmp_path / name)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    path = tmp_path / 'train_record.json'
    record = read_record(path)
    record.sessions[0].finished = None
    write_record(record, path)
    apis.train(
        DETECTOR,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        resume='auto',
        no_validate=True,
        cfg_options={'train_cfg.max_epochs': 2})
    first, second = read_record(path).sessions
    assert first.finished is None
    assert (second.first_iter, second.last_iter) == (3, 6)
    assert second.finished is not None


def test_a_training_that_fails_is_left_unfinished(coco_root, tmp_path,
                                                  monkeypatch):

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmengine.hooks.IterTimerHook.after_train_iter', fail)
    monkeypatch.setattr('mmengine.hooks.IterTimerHook._after_iter', fail)
    with pytest.raises(KeyboardInterrupt):
        apis.train(DETECTOR, data_root=str(coco_root), work_dir=str(tmp_path))
    record = read_record(tmp_path / 'train_record.json')
    assert record.sessions[0].finished is None
    assert record.final_checkpoint is None and record.cost is None


def test_a_detector_replays_to_the_last_digit(tested, tmp_path):
    _, path = tested
    result = replay(str(path), work_dir=str(tmp_path))
    assert result.agrees
    assert all(value.agrees for value in result.metrics)
    assert len(result.per_class) == 6
    assert [v.name for v in result.environment if v.name != 'commit'] == []
    new = read_record(only_record(tmp_path))
    assert new.metrics == read_record(path).metrics
    assert new.config == DETECTOR
    assert new.arguments['replay_of'] == str(path)


@pytest.mark.parametrize('tta', fast_first([False, True]))
def test_a_segmentor_replays_to_the_last_digit(tta, masks_root, tmp_path):
    runner = apis.train(
        SEGMENTOR,
        data_root=str(masks_root),
        work_dir=str(tmp_path / 'work'),
        no_validate=True)
    metrics = apis.test(
        SEGMENTOR,
        str(Path(runner.work_dir) / 'iter_1.pth'),
        data_root=str(masks_root),
        work_dir=str(tmp_path / 'work'),
        tta=tta)
    path = only_record(tmp_path / 'work')
    record = read_record(path)
    assert record.tta is tta and record.checkpoint_iter == 1
    assert record.metrics == pytest.approx(metrics)
    iou = record.per_class['IoU']
    assert list(iou) == ['ground', 'tile']
    assert 100 * sum(iou.values()) / 2 == pytest.approx(
        metrics['mIoU'], abs=0.006)
    assert (record.model.macs is None) is tta
    result = replay(str(path), work_dir=str(tmp_path / 'again'))
    assert result.agrees and len(result.per_class) == 4
    assert result.record.tta is tta


def test_moved_files_are_found_by_options(tested, coco_root, tmp_path):
    _, path = tested
    record = read_record(path)
    data_root = shutil.copytree(coco_root, tmp_path / 'data')
    checkpoint = shutil.copy(record.checkpoint.path, tmp_path / 'moved.pth')
    write_record(
        replace(
            record,
            checkpoint=replace(record.checkpoint, path='gone.pth'),
            config_text=record.config_text.replace(str(coco_root), '/gone')),
        tmp_path / 'test_record_1.json')
    with pytest.raises(apis.MMHierError, match='gone.pth does not exist.*--ch'):
        replay(str(tmp_path / 'test_record_1.json'))
    with pytest.raises(apis.MMHierError, match='/gone.*--data-root'):
        replay(str(tmp_path / 'test_record_1.json'), checkpoint=str(checkpoint))
    assert replay(
        str(tmp_path / 'test_record_1.json'),
        checkpoint=str(checkpoint),
        data_root=str(data_root)).agrees


def change_annotations(root):
    path = root / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['bbox'][0] += 1
    path.write_text(json.dumps(content))


def lengthen_image(root):
    with open(root / 'val2017/002.jpg', 'ab') as file:
        file.write(b'\0')


@pytest.mark.parametrize('tamper, message', [
    (change_annotations, 'annotation file .*/instances_val2017.json has '
     'sha256 [0-9a-f]{64}, recorded was'),
    (lengthen_image, 'the val2017 images in .* differ in names or file size'),
])
def test_other_data_is_named_before_the_test(tamper, message, tested, coco_root,
                                             tmp_path):
    root = shutil.copytree(coco_root, tmp_path / 'data')
    tamper(root)
    with pytest.raises(apis.MMHierError, match=message):
        replay(
            str(tested[1]),
            data_root=str(root),
            work_dir=str(tmp_path / 'work'))
    assert list((tmp_path / 'work').iterdir()) == []


def test_another_checkpoint_is_named_before_the_test(tested, tmp_path):
    record = read_record(tested[1])
    checkpoint = tmp_path / 'epoch_1.pth'
    content = bytearray(Path(record.checkpoint.path).read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(
            apis.MMHierError,
            match='epoch_1.pth is not the one that was tested'):
        replay(
            str(tested[1]),
            checkpoint=str(checkpoint),
            work_dir=str(tmp_path / 'work'))
    assert list((tmp_path / 'work').iterdir()) == []


def test_differences_and_the_tolerance(tested):
    record = read_record(tested[1])
    other = replace(
        record,
        metrics={
            **record.metrics, 'coco/bbox_mAP':
            record.metrics['coco/bbox_mAP'] + 0.01
        },
        environment=replace(record.environment, device='another'))
    result = compare_records(record, other)
    assert not result.agrees
    assert [v.name for v in result.metrics if not v.agrees] == ['coco/bbox_mAP']
    assert [(v.name, v.replayed)
            for v in result.environment] == [('device', 'another')]
    assert compare_records(record, other, 0.011).agrees
    assert not compare_records(record, other, 0.009).agrees

    classes = dict(record.per_class, extra={'box': None})
    assert not compare_records(record, replace(record,
                                               per_class=classes)).agrees


@pytest.mark.parametrize('text', [
    'import os\nmodel = dict()',
    'model = __import__("os").system("touch {canary}")',
    'model = dict(a=open("{canary}", "w"))',
    '_base_ = "{canary}"',
    'a = dict(**b)',
    'a = [i for i in range(3)]',
    'a = (',
])
def test_a_config_in_a_record_holds_values_only(text, tested, tmp_path):
    canary = tmp_path / 'canary'
    path = tmp_path / 'test_record_1.json'
    record = read_record(tested[1])
    write_record(replace(record, config_text=text.format(canary=canary)), path)
    with pytest.raises(apis.MMHierError, match='config_text is not a dumped'):
        replay(str(path))
    assert not canary.exists()


def test_only_records_of_tests_are_replayed(detector_run, tmp_path):
    training = Path(detector_run.work_dir) / 'train_record.json'
    with pytest.raises(apis.MMHierError, match='the record of a training'):
        replay(str(training))
    with pytest.raises(apis.MMHierError, match='absent.json does not exist'):
        replay(str(tmp_path / 'absent.json'))
    with pytest.raises(apis.MMHierError, match='--tolerance -1.0 must not'):
        replay(str(training), tolerance=-1.)


def test_runs_and_curves_reach_the_leaderboard(tested, detector_run):
    board = build_leaderboard([tested[1].parent, Path(detector_run.work_dir)])
    run = next(run for table in board.tables for run in table.runs
               if run.path == tested[1])
    assert {curve.name for curve in run.curves} >= {'coco/bbox_mAP'}
    assert run.training_seed == 0
    assert '6 images, COCO val2017 has 5000' in run.reasons


def call(*command) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)],
                          capture_output=True,
                          text=True,
                          timeout=600,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


@pytest.mark.slow
def test_the_tool_repeats_a_test(tested, tmp_path):
    shutil.copy(tested[1], tmp_path / 'test_record_1.json')
    ended = call(TOOLS / 'replay.py', tmp_path / 'test_record_1.json')
    assert ended.returncode == 0, ended.stderr
    lines = [
        line.split() for line in ended.stdout.splitlines()
        if line.startswith('coco/')
    ]
    assert len(lines) == len(tested[0])
    assert {line[-1] for line in lines} == {'yes'}
    assert 'scores by class: 6 of 6 agree' in ended.stdout
    assert len(list(tmp_path.glob('test_record_*.json'))) == 2


def test_the_tool_tells_a_difference(tested, tmp_path, monkeypatch, capsys):
    record = read_record(tested[1])
    record.metrics['coco/bbox_mAP'] += 0.5
    path = tmp_path / 'test_record_1.json'
    write_record(record, path)
    monkeypatch.setattr(sys, 'argv', ['replay.py', str(path)])
    with pytest.raises(SystemExit) as end:
        replay_command.main()
    assert end.value.code == 1
    line, = [
        line for line in capsys.readouterr().out.splitlines()
        if line.startswith('coco/bbox_mAP ')
    ]
    assert line.split()[-1] == 'NO'


def test_a_mistake_ends_the_tool_with_one_line(tmp_path):
    (tmp_path / 'test_record_1.json').write_text('{')
    ended = call(TOOLS / 'replay.py', tmp_path / 'test_record_1.json')
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        f'error: {tmp_path}/test_record_1.json is not readable json')
    assert 'Traceback' not in ended.stderr


def test_the_tool_hands_its_arguments_on(monkeypatch):
    received = {}
    monkeypatch.setattr(replaying, 'replay',
                        lambda **kwargs: received.update(kwargs))
    monkeypatch.setattr(sys, 'argv', [
        'replay', 'a.json', '--checkpoint', 'b.pth', '--data-root', 'c',
        '--work-dir', 'd', '--tolerance', '0.5'
    ])
    replay_command.main()
    assert received == dict(
        record='a.json',
        checkpoint='b.pth',
        data_root='c',
        work_dir='d',
        tolerance=0.5,
        launcher='none')


@pytest.mark.slow
def test_a_killed_test_damages_nothing_and_the_next_one_says_so(
        tested, coco_root, tmp_path, capfd):
    record = read_record(tested[1])
    earlier = shutil.copy(tested[1], tmp_path)
    before = Path(earlier).read_bytes()
    command = [
        sys.executable,
        str(TOOLS / 'test.py'), DETECTOR, record.checkpoint.path, '--data-root',
        str(coco_root), '--work-dir',
        str(tmp_path)
    ]
    with open(tmp_path / 'output', 'w') as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=dict(os.environ, OMP_NUM_THREADS='1'))
    deadline = time.monotonic() + 300
    marks = []
    while not marks and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        marks = list(tmp_path.glob('*.unfinished'))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    mark, = tmp_path.glob('*.unfinished')
    assert json.loads(mark.read_text())['config'] == DETECTOR
    assert Path(earlier).read_bytes() == before
    assert list(tmp_path.glob('test_record_*.json')) == [Path(earlier)]

    apis.test(
        DETECTOR,
        record.checkpoint.path,
        data_root=str(coco_root),
        work_dir=str(tmp_path))
    printed = capfd.readouterr()
    assert (f'the test of {record.checkpoint.path} that started at'
            in printed.out + printed.err)
    assert f'removed {mark.name}' in printed.out + printed.err
    assert list(tmp_path.glob('*.unfinished')) == []
    assert Path(earlier).read_bytes() == before
    assert len(list(tmp_path.glob('test_record_*.json'))) == 2


def test_a_test_that_fails_leaves_no_mark(tested, coco_root, tmp_path,
                                          monkeypatch):

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmengine.runner.loops.TestLoop.run_iter', fail)
    with pytest.raises(KeyboardInterrupt):
        apis.test(
            DETECTOR,
            read_record(tested[1]).checkpoint.path,
            data_root=str(coco_root),
            work_dir=str(tmp_path))
    assert list(tmp_path.glob('test_record_*')) == []


def test_a_record_whose_config_has_an_old_type(tested, tmp_path):
    """It can be read; a replay names the new type."""
    record = read_record(tested[1])
    text = record.config_text.replace("type='MaskRCNN'",
                                      "type='mmhier.MaskRCNN'")
    assert text != record.config_text
    path = tmp_path / 'test_record_old.json'
    write_record(replace(record, config_text=text), path)
    with pytest.raises(
            apis.MMHierError,
            match="model.type='mmhier.MaskRCNN' is now 'mmdet.MaskRCNN'"):
        replay(str(path), work_dir=str(tmp_path))
