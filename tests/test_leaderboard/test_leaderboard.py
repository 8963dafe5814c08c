"""Leaderboards: what is comparable, what is marked, what a page holds."""
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mmhier.apis import MMHierError
from mmhier.cli import leaderboard as leaderboard_command
from mmhier.leaderboard.pages import (
    as_csv,
    as_html,
    as_markdown,
    write_leaderboard,
)
from mmhier.leaderboard.published import read_zoo
from mmhier.leaderboard.records import DataRecord, FileRecord, write_record
from mmhier.leaderboard.tables import (
    Curve,
    Leaderboard,
    Run,
    build_leaderboard,
    size_text,
)
from .record_samples import (
    COCO,
    evaluation_record,
    training_record,
    with_data,
    write_scalars,
)

TOOL = Path(__file__).parents[2] / 'tools' / 'leaderboard.py'
VOID = {'meta', 'circle', 'path', 'polyline', 'br', 'link'}


@pytest.fixture(autouse=True)
def metafiles_read_once(monkeypatch):
    monkeypatch.setattr('mmhier.leaderboard.tables.read_zoo', zoo_read_once)


@cache
def zoo_read_once() -> dict:
    return read_zoo()


def build(folder: Path, **records) -> Leaderboard:
    """Leaderboard of records, each in a folder of its name."""
    for name, record in records.items():
        (folder / name).mkdir(parents=True)
        write_record(record, folder / name / 'test_record_1.json')
    return build_leaderboard([folder])


def runs_of(board: Leaderboard) -> dict:
    return {
        run.path.parent.name: run
        for table in board.tables
        for run in table.runs
    }


def test_a_match_stands_beside_the_published_result(tmp_path):
    board = build(tmp_path, a=evaluation_record())
    table, = board.tables
    run, = table.runs
    assert table.comparable and run.reasons == []
    assert table.title == ('COCO val2017, 5000 images [bbbbbbbb], at '
                           '1333x800')
    assert run.metrics == {
        'box AP': pytest.approx(43.0),
        'mask AP': pytest.approx(38.6)
    }
    source = 'authors (ziplab/LIT)'
    assert run.published == {
        'box AP': (42.0, source),
        'mask AP': (39.1, source)
    }
    assert run.differences == {
        'box AP': pytest.approx(1.0),
        'mask AP': pytest.approx(-0.5)
    }


MARKS = {
    'tta': (dict(tta=True), 'test-time augmentation'),
    'subset':
    (dict(data=with_data(num_images=60)), 'only 60 of the 5000 images'),
    'small set': (dict(data=with_data(num_images=60, num_listed=60)),
                  '60 images, COCO val2017 has 5000'),
    'split':
    (dict(data=with_data(split='train2017')), 'split train2017, not val2017'),
    'other data': (dict(data=with_data(dataset='MyDataset')),
                   'data read by MyDataset, not COCO'),
    'classes': (dict(data=with_data(num_classes=3)), '3 classes, COCO has 80'),
    'two sets': (dict(data=[COCO, COCO]), '2 datasets together'),
    'size': (dict(resizing=[dict(type='Resize', scale=[640, 480])]),
             'images at 640x480, not 1333x800'),
    'thresholds': (dict(test_cfg=dict(score_thr=0.)), 'other model.test_cfg'),
    'model': (dict(model=replace(evaluation_record().model, params=10**6)),
              'another model: 1.00 M parameters, not 39.54 M'),
    'schedule':
    (dict(model=replace(evaluation_record().model, schedule='1 epoch')),
     'trained for 1 epoch, not 12 epochs'),
    'early': (dict(checkpoint_epoch=3), 'checkpoint after epoch 3 of 12'),
    'task': (dict(task='pose'), 'no official data is known for pose'),
}


@pytest.mark.parametrize('changes, reason', MARKS.values(), ids=MARKS)
def test_what_does_not_match_stands_apart(changes, reason, tmp_path):
    board = build(
        tmp_path, same=evaluation_record(), other=evaluation_record(**changes))
    comparable, apart = sorted(
        board.tables, key=lambda table: not table.comparable)
    assert [run.path.parent.name for run in comparable.runs] == ['same']
    run, = apart.runs
    assert len(run.reasons) == 1 and run.reasons[0].startswith(reason)
    assert run.differences == {}
    for text in (as_markdown(board), as_html(board)):
        assert reason in text.replace('&#x27;', "'")


@pytest.mark.parametrize('change', [
    dict(images_sha256='e' * 64),
    dict(annotations=[FileRecord('val.json', 9, 'f' * 64)]),
])
def test_other_data_of_the_same_size_is_told_by_its_hash(change, tmp_path):
    other = evaluation_record(data=with_data(**change))
    board = build(
        tmp_path, a=evaluation_record(), b=evaluation_record(), c=other)
    runs = runs_of(board)
    assert runs['a'].reasons == runs['b'].reasons == []
    assert runs['c'].reasons == [
        'other images or annotations than 2 of the 3 runs'
    ]
    assert runs['c'].differences == {}


def test_without_a_majority_both_are_marked(tmp_path):
    other = evaluation_record(data=with_data(images_sha256='e' * 64))
    board = build(tmp_path, a=evaluation_record(), b=other)
    assert [table.comparable for table in board.tables] == [False, False]
    assert all('no majority' in run.reasons[0]
               for run in runs_of(board).values())


def test_a_config_of_one_s_own_is_compared_by_size(tmp_path):
    own = dict(config='mine.py')
    larger = dict(resizing=[dict(type='Resize', scale=[2000, 1200])])
    board = build(
        tmp_path,
        a=evaluation_record(),
        b=evaluation_record(**own),
        c=evaluation_record(**own, **larger))
    runs = runs_of(board)
    assert runs['b'].reasons == [] and runs['b'].published == {}
    assert runs['c'].reasons == ['other image size than 2 of the 3 runs']


def test_runs_apart_are_grouped_by_how_they_were_evaluated(tmp_path):
    small = with_data(num_images=60, num_listed=60, images_sha256='d' * 64)
    board = build(
        tmp_path,
        a=evaluation_record(data=small, metrics={'coco/bbox_mAP': 0.1}),
        b=evaluation_record(data=small, metrics={'coco/bbox_mAP': 0.2}),
        c=evaluation_record(data=small, tta=True),
        d=evaluation_record())
    names = [[run.path.parent.name for run in table.runs]
             for table in board.tables]
    # Comparable ones first; in a table the best first.
    assert names == [['d'], ['b', 'a'], ['c']]


@pytest.mark.parametrize('task, metrics, expected', [
    ('segmentation', {
        'mIoU': 41.5,
        'mAcc': 50.,
        'aAcc': None
    }, {
        'mIoU': 41.5,
        'mAcc': 50.
    }),
    ('classification', {
        'accuracy/top1': 79.8,
        'accuracy/top5': 95.
    }, {
        'Top 1 Accuracy': 79.8,
        'Top 5 Accuracy': 95.
    }),
    ('detection', {
        'coco/bbox_mAP': -1.,
        'bbox_mAP_50': 0.5
    }, {
        'box AP50': 50.
    }),
])
def test_metrics_in_per_cent(task, metrics, expected):
    record = evaluation_record(task=task, metrics=metrics)
    assert Run(Path('a'), record).metrics == expected


def test_published_segmentation_result(tmp_path):
    name = 'semantic-fpn_lit-tiny_80k_ade20k-512x512'
    zoo = read_zoo()[name]
    assert zoo.published == {'mIoU': (41.3, 'authors (ziplab/LIT)')}
    ade = DataRecord('ADE20KDataset', 'validation', 'ade', [], 2000, 2000,
                     'a' * 64, 150)
    model = replace(
        evaluation_record().model,
        params=zoo.params,
        schedule='80000 iterations')
    record = evaluation_record(
        task='segmentation',
        config=f'{name}.py',
        data=[ade],
        model=model,
        checkpoint_iter=80000,
        test_cfg=dict(mode='whole'),
        resizing=[dict(type='Resize', scale=[2048, 512], keep_ratio=True)],
        metrics={'mIoU': 40.3})
    run, = build(tmp_path, a=record).tables[0].runs
    assert run.reasons == []
    assert run.differences == {'mIoU': pytest.approx(-1.0)}


def test_sizes_in_words():
    assert size_text([]) == 'their own size'
    assert size_text([
        dict(type='ResizeEdge', scale=256),
        dict(type='CenterCrop', crop_size=224)
    ]) == '256 -> 224'


def test_curves_of_the_training_behind_a_checkpoint(tmp_path):
    (tmp_path / 'train').mkdir()
    write_record(training_record(), tmp_path / 'train' / 'train_record.json')
    write_scalars(
        tmp_path / 'train' / 'one/vis_data/scalars.json',
        [dict(loss=3., step=10), dict(loss=9., step=20)])
    write_scalars(tmp_path / 'train' / 'two/vis_data/scalars.json', [
        dict(loss=2., step=20),
        dict(loss=float('nan'), step=25),
        dict(loss=10**400, step=27),
        dict(loss=1., step=30), {
            'coco/bbox_mAP': 0.4,
            'step': 1
        }
    ])
    board = build(
        tmp_path,
        a=evaluation_record(),
        b=evaluation_record(
            checkpoint=FileRecord('elsewhere/b.pth', 1, 'd' * 64)))
    runs = runs_of(board)
    assert runs['a'].curves == [
        Curve('loss', [(10, 3.), (20, 2.), (30, 1.)]),
        Curve('coco/bbox_mAP', [(1, 0.4)])
    ]
    assert runs['a'].training_seed == 42
    assert runs['b'].curves == [] and runs['b'].training_seed is None
    page = as_html(board)
    assert 'aria-label="loss: 3 at step 10, 1 at step 30, between 1 and 3"' \
        in page
    assert 'points="60.0,28.0 192.5,78.0 325.0,128.0"' in page


def test_no_log_outside_of_the_work_dir_is_read(tmp_path):
    training = training_record()
    training.sessions[0].scalars = '../secret/vis_data/scalars.json'
    training.sessions[1].scalars = str(tmp_path / 'secret/vis_data'
                                       '/scalars.json')
    (tmp_path / 'train').mkdir()
    write_record(training, tmp_path / 'train' / 'train_record.json')
    write_scalars(tmp_path / 'secret/vis_data/scalars.json',
                  [dict(loss=3., step=10)])
    run, = runs_of(build(tmp_path, a=evaluation_record())).values()
    assert run.curves == []


def test_broken_and_foreign_files_are_skipped_and_named(tmp_path):
    for name, text in (('cut', '{"kind": "eval'), ('foreign', '{"a": 1}'),
                       ('list', '[]'), ('binary', '\0')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'test_record_1.json').write_text(text)
    (tmp_path / 'wrong').mkdir()
    write_record(training_record(), tmp_path / 'wrong' / 'test_record_1.json')
    (tmp_path / 'other.json').write_text('{')
    board = build(tmp_path, good=evaluation_record())
    assert list(runs_of(board)) == ['good']
    assert len(board.warnings) == 5
    for name in ('cut', 'foreign', 'list', 'binary', 'wrong'):
        warning, = [w for w in board.warnings if f'/{name}/' in w]
        assert warning.startswith('skipped: ')
        assert f'/{name}/' in as_html(board)


def test_a_folder_in_a_folder_counts_once(tmp_path):
    build(tmp_path, a=evaluation_record())
    board = build_leaderboard([tmp_path, tmp_path / 'a'])
    assert len(board.tables[0].runs) == 1


def test_without_records(tmp_path):
    with pytest.raises(ValueError, match='no record of a test below'):
        build_leaderboard([tmp_path])
    with pytest.raises(ValueError, match='absent is not a folder'):
        build_leaderboard([tmp_path / 'absent'])


class Page(HTMLParser):
    """Checks that every element is closed, and collects what it needs."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.references = [], [], []
        self.names = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.references += [
            value for key, value in attributes
            if key in ('src', 'href', 'action', 'onclick', 'onload')
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.text.append(data)


EVIL = '<script>alert(1)</script>"\'><img src=x onerror=alert(1)>|`'


def evil_record():
    record = evaluation_record()
    return replace(
        record,
        config=f'{EVIL}.py',
        data=with_data(split=EVIL, data_root=EVIL),
        environment=replace(record.environment, device=EVIL, commit=EVIL),
        model=replace(record.model, variant=EVIL, schedule=EVIL),
        metrics={
            'coco/bbox_mAP': 0.1,
            EVIL: 1.
        },
        per_class={EVIL: {
            EVIL: 0.5
        }})


def test_a_page_is_whole_and_needs_nothing_else(tmp_path):
    board = build(
        tmp_path,
        a=evaluation_record(),
        b=evaluation_record(tta=True, config='other.py'))
    text = as_html(board)
    page = Page(text)
    assert page.references == []
    assert 'http:' not in text and 'https:' not in text
    assert 'url(' not in text and '@import' not in text
    for expected in ('mask-rcnn_lit-tiny_fpn_1x_coco', 'other', '43.00',
                     '+1.00 / -0.50', '42 / 39.1\n(authors (ziplab/LIT))',
                     'test-time augmentation', 'cat', '50.00'):
        assert expected in page.text, expected
    # Two runs, each a tbody of a row and its details, and nested values.
    assert text.count('<th scope="row"><button') == 2
    assert text.count('<caption>') == 2
    assert text.count('<th scope="col"><button type="button">Config') == 2


def test_columns_and_cells_of_a_page_agree(tmp_path):
    board = build(
        tmp_path, a=evaluation_record(), b=evaluation_record(tta=True))
    for table in re.findall('<table>\n<caption>.*?</thead>.*?</tr>',
                            as_html(board), re.S):
        head, row = table.split('</thead>')
        cells = row.count('<td') + row.count('<th scope="row">')
        assert head.count('<th scope="col"') == cells


def test_nothing_in_a_record_becomes_markup(tmp_path):
    board = build(tmp_path, **{'<script>alert(2)<': evil_record()})
    board.warnings.append(EVIL)
    text = as_html(board)
    page = Page(text)
    assert 'img' not in page.names
    assert '<script>alert' not in text
    assert text.count('<script>') == 1
    assert EVIL in ''.join(page.text)
    for line in as_markdown(board).splitlines():
        assert not re.search(r'(?<!\\)[<`]', line)
        if line.startswith('| '):
            columns = len(re.findall(r'(?<!\\)\|', line)) - 1
    header = next(
        line for line in as_markdown(board).splitlines()
        if line.startswith('| Config'))
    assert columns == header.count('|') - 1


@pytest.mark.parametrize('start', ['=', '+', '-', '@', '\t', '\r'])
def test_no_cell_of_the_csv_is_a_formula(start, tmp_path):
    record = evaluation_record()
    formula = f'{start}cmd|calc'
    record = replace(
        record, model=replace(record.model, variant=formula, head=formula))
    board = build(tmp_path, a=record)
    row, = csv.DictReader(io.StringIO(as_csv(board), newline=''))
    assert row['variant'] == row['head'] == f"'{formula}"
    # Numbers stay numbers, negative ones too.
    assert float(row['difference mask AP']) == pytest.approx(-0.5)


def test_the_csv_holds_every_run_and_column(tmp_path):
    board = build(
        tmp_path, a=evaluation_record(), b=evaluation_record(tta=True))
    first, second = csv.DictReader(io.StringIO(as_csv(board), newline=''))
    assert float(first['box AP']) == pytest.approx(43.)
    assert first['mIoU'] == '' and first['comparable'] == 'yes'
    assert second['comparable'] == 'no'
    assert second['not_comparable_because'] == 'test-time augmentation'
    assert second['published box AP'] == '42.0'
    assert second['difference box AP'] == ''
    assert first['published box AP'] == '42.0'
    assert first['source box AP'] == 'authors (ziplab/LIT)'
    assert first['checkpoint_sha256'] == 'c' * 64
    assert first['flops_size'] == '800x1088'


def test_existing_files_are_not_replaced_unasked(tmp_path):
    board = build(tmp_path / 'runs', a=evaluation_record())
    out = tmp_path / 'out'
    names = [path.name for path in write_leaderboard(board, out)]
    assert sorted(names) == sorted(path.name for path in out.iterdir())
    assert sorted(names) == [
        'leaderboard.csv', 'leaderboard.html', 'leaderboard.md'
    ]
    (out / 'leaderboard.md').write_text('mine')
    with pytest.raises(ValueError, match='leaderboard.md.*--overwrite'):
        write_leaderboard(board, out)
    assert (out / 'leaderboard.md').read_text() == 'mine'
    write_leaderboard(board, out, overwrite=True)
    assert (out / 'leaderboard.md').read_text() == as_markdown(board)


def test_a_place_that_is_no_folder(tmp_path):
    board = build(tmp_path / 'runs', a=evaluation_record())
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='file cannot be written to'):
        write_leaderboard(board, tmp_path / 'file')


def test_the_tool(tmp_path):
    build(tmp_path / 'runs', a=evaluation_record())
    (tmp_path / 'runs' / 'test_record_0.json').write_text('{')
    ended = subprocess.run([
        sys.executable,
        str(TOOL),
        str(tmp_path / 'runs'), '--out',
        str(tmp_path / 'out')
    ],
                           capture_output=True,
                           text=True,
                           timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ('runs: 1, not comparable with published results: 0; files left '
            'out: 1') in ended.stdout
    assert 'test_record_0.json is not readable json' in ended.stderr
    assert (tmp_path / 'out' / 'leaderboard.html').is_file()


def test_a_mistake_in_the_tool_is_the_user_s(tmp_path):
    with pytest.raises(MMHierError, match='no record of a test below'):
        leaderboard_command.main([str(tmp_path)])


def test_records_of_a_newer_mmhier_are_named(tmp_path):
    content = asdict(evaluation_record(version=99))
    (tmp_path / 'test_record_1.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='version 99'):
        build_leaderboard([tmp_path])
