"""Records: the schema, files that are no records, facts of runs."""
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmhier.leaderboard.records import (
    EvaluationRecord,
    TrainingRecord,
    UnfinishedRecord,
    read_record,
    remove_interrupted,
    write_record,
)
from mmhier.leaderboard.run_facts import (
    as_json,
    describe_data,
    describe_environment,
    describe_file,
)
from ..test_tools import samples
from .record_samples import evaluation_record, training_record

# A test that runs until it is killed, in the folder of its argument.
RUNNING = '''
import sys, time
from mmhier.leaderboard.records import UnfinishedRecord
place = UnfinishedRecord(sys.argv[1], 'test_record_1', checkpoint='a.pth')
print('locked', flush=True)
time.sleep(600)
'''


@pytest.mark.parametrize('record, kind', [
    (evaluation_record(), EvaluationRecord),
    (training_record(), TrainingRecord),
])
def test_a_record_is_read_as_it_was_written(record, kind, tmp_path):
    path = tmp_path / 'record.json'
    write_record(record, path)
    read = read_record(path)
    assert type(read) is kind
    assert read == record
    assert [p.name for p in tmp_path.iterdir()] == ['record.json']


@pytest.mark.parametrize('change, message', [
    (lambda r: r.pop('checkpoint'), 'lacks checkpoint'),
    (lambda r: r['checkpoint'].pop('sha256'), 'checkpoint lacks sha256'),
    (lambda r: r.update(seed='7'), 'seed is a str, expected a int'),
    (lambda r: r.update(seed=True), 'seed is a bool, expected a int'),
    (lambda r: r.update(tta=0), 'tta is a int, expected a bool'),
    (lambda r: r['data'][0].update(num_images=None),
     r'data\[0\].num_images is a NoneType'),
    (lambda r: r['metrics'].update(mIoU='high'), r"metrics\['mIoU'\] is a str"),
    (lambda r: r['metrics'].update(mIoU=10**400),
     r"metrics\['mIoU'\] is a int"),
    (lambda r: r.update(version=2), 'version 2, this mmhier reads'),
    (lambda r: r.update(kind='cake'), "its kind is 'cake', not one of"),
    (lambda r: r.update(kind=['evaluation']), 'not a record'),
])
def test_what_is_wrong_with_a_record_is_named(change, message, tmp_path):
    content = asdict(evaluation_record())
    change(content)
    path = tmp_path / 'record.json'
    path.write_text(json.dumps(content))
    with pytest.raises(match=message) as error:
        read_record(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('text, message', [
    ('', 'not readable json'),
    ('{"kind": "evaluation"', 'not readable json'),
    ('[1]', 'not a record'),
    ('{"kind": NaN}', 'NaN is not json'),
    ('[' * 100000, 'not readable json'),
    ('\0\1', 'not readable json'),
])
def test_what_is_no_record_is_refused(text, message, tmp_path):
    path = tmp_path / 'record.json'
    path.write_text(text)
    with pytest.raises(match=message):
        read_record(path)


def test_a_number_beyond_all_floats_is_refused(tmp_path):
    path = tmp_path / 'record.json'
    text = json.dumps(asdict(evaluation_record()))
    path.write_text(text.replace('0.386', '1e999'))
    with pytest.raises(match='segm_mAP.* is not a finite'):
        read_record(path)


def test_a_failed_write_leaves_the_old_record(tmp_path):
    path = tmp_path / 'record.json'
    write_record(evaluation_record(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError):
        write_record(evaluation_record(metrics={'mIoU': float('nan')}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['record.json']


def test_records_of_the_same_second_get_names_of_their_own(tmp_path):
    places = [UnfinishedRecord(tmp_path, 'test_record_1') for _ in range(3)]
    names = [
        place.finish(evaluation_record(seed=i)).name
        for i, place in enumerate(places)
    ]
    assert names == [
        'test_record_1.json', 'test_record_1_2.json', 'test_record_1_3.json'
    ]
    assert [read_record(tmp_path / name).seed for name in names] == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_place_that_is_given_up_leaves_nothing(tmp_path):
    place = UnfinishedRecord(tmp_path, 'test_record_1')
    assert (tmp_path / 'test_record_1.json.unfinished').is_file()
    assert remove_interrupted(tmp_path) == []
    for _ in range(2):
        place.discard()
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_dead_run_left_is_removed(tmp_path):
    finished = tmp_path / 'test_record_0.json'
    finished.write_text('kept')
    running = subprocess.Popen([sys.executable, '-c', RUNNING,
                                str(tmp_path)],
                               stdout=subprocess.PIPE)
    try:
        assert running.stdout.readline() == b'locked\n'
        assert remove_interrupted(tmp_path) == []
        assert (tmp_path / 'test_record_1.json.unfinished').exists()
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    sentence, = remove_interrupted(tmp_path)
    assert re.match(
        'the test of a.pth that started at 20.* on .* was '
        'interrupted and left no record; removed test_record_1', sentence)
    assert list(tmp_path.iterdir()) == [finished]


def test_records_without_fcntl_and_resource(tmp_path):
    """As on Windows, where packages and records are written as well."""
    code = ('import sys; sys.modules.update(fcntl=None, resource=None); '
            'from mmhier.leaderboard import packages, records; '
            'place = records.UnfinishedRecord(sys.argv[1], "a"); '
            'print(place.path.exists()); place.discard()')
    printed = subprocess.check_output(
        [sys.executable, '-c', code, str(tmp_path)], text=True)
    assert printed == 'True\n' and list(tmp_path.iterdir()) == []


def test_an_unfinished_file_cut_short_is_removed(tmp_path):
    (tmp_path / 'test_record_1.json.unfinished').write_text('{"che')
    sentence, = remove_interrupted(tmp_path)
    assert sentence.startswith('an earlier test was interrupted')
    assert list(tmp_path.iterdir()) == []


def coco_data(root, **options):
    init_default_scope('mmdet')
    settings = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        metainfo=dict(classes=samples.CLASSES),
        pipeline=[])
    record, = describe_data(DATASETS.build(dict(settings, **options)))
    return record


def test_data_of_an_annotation_file(tmp_path):
    root = samples.write_coco(tmp_path / 'here')
    record = coco_data(root, test_mode=True)
    assert (record.dataset, record.split) == ('CocoDataset', 'val2017')
    assert (record.num_images, record.num_listed) == (6, 6)
    assert record.num_classes == 3
    assert record.annotations == [
        describe_file(f'{root}/annotations/instances_val2017.json')
    ]

    part = coco_data(root, filter_cfg=dict(filter_empty_gt=True))
    assert (part.num_images, part.num_listed) == (5, 6)
    assert part.images_sha256 != record.images_sha256


def test_hash_of_images_follows_the_data_and_not_its_place(tmp_path):
    here = samples.write_coco(tmp_path / 'here')
    there = shutil.copytree(here, tmp_path / 'there')
    before = coco_data(here, test_mode=True)
    assert coco_data(
        there, test_mode=True).images_sha256 == before.images_sha256
    with open(there / 'val2017' / '003.jpg', 'ab') as file:
        file.write(b'more')
    after = coco_data(there, test_mode=True)
    assert after.images_sha256 != before.images_sha256
    assert after.annotations[0].sha256 == before.annotations[0].sha256


def test_data_in_folders_with_masks(tmp_path):
    root = samples.write_masks(tmp_path)
    init_default_scope('mmseg')
    settings = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        metainfo=dict(classes=('ground', 'tile')),
        pipeline=[])
    whole, = describe_data(DATASETS.build(dict(settings)))
    assert (whole.split, whole.num_classes) == ('validation', 2)
    assert (whole.num_images, whole.num_listed) == (2, 2)
    assert whole.annotations == []

    part, = describe_data(DATASETS.build(dict(settings, indices=1)))
    assert (part.num_images, part.num_listed) == (1, 2)

    with open(root / 'annotations/validation/0.png', 'ab') as file:
        file.write(b'more')
    changed, = describe_data(DATASETS.build(dict(settings)))
    assert changed.images_sha256 != whole.images_sha256


def test_data_below_a_wrapper(tmp_path):
    root = samples.write_folders(tmp_path)
    init_default_scope('mmpretrain')
    inner = [
        dict(
            type='CustomDataset',
            data_root=str(root),
            data_prefix=split,
            pipeline=[]) for split in ('train', 'val')
    ]
    wrapper = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=inner))
    records = describe_data(DATASETS.build(wrapper))
    assert [record.split for record in records] == ['train', 'val']
    assert [record.num_images for record in records] == [4, 4]
    assert [record.num_listed for record in records] == [4, 4]


def test_an_url_has_no_hash():
    record = describe_file('https://example.org/a.pth')
    assert (record.size, record.sha256) == (None, None)


def test_environment_names_what_matters():
    record = describe_environment()
    assert record.packages['torch'] == torch.__version__.partition('+')[0]
    assert 'mmhier' in record.packages
    assert record.num_threads == torch.get_num_threads()
    assert record.operators in ('compiled', 'torchvision')
    assert record.device


def test_settings_as_json():
    value = dict(a=(1, (2.5, None)), b=float('inf'), c={3: True}, d=int)
    assert as_json(value) == dict(
        a=[1, [2.5, None]], b='inf', c={'3': True}, d="<class 'int'>")
