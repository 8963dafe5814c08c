"""Packages for the COCO server: written files, refused input."""
import json
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from mmhier.datasets.shapes import generate_shapes
from mmhier.errors import MMHierError
from mmhier.leaderboard.coco_submission import (
    check_coco_package,
    coco_package_name,
    read_image_list,
    write_coco_package,
)

COCO_MINI = Path(__file__).parents[3] / 'shared' / 'data' / 'coco_mini'
NAME = 'detections_val2017_mine_results'


@pytest.fixture(scope='module')
def shapes_json(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('shapes') / 'set'
    generate_shapes(root, num_train=1, num_val=24, image_size=96)
    return root / 'annotations' / 'instances_val2017.json'


@pytest.fixture(params=['shapes', 'coco_mini'])
def annotations(request, shapes_json) -> Path:
    if request.param == 'shapes':
        return shapes_json
    if not COCO_MINI.is_dir():
        pytest.skip('no coco_mini beside the repository')
    return COCO_MINI / 'annotations' / 'instances_val2017.json'


def ground_truth_as_detections(path: Path) -> list:
    """Boxes and masks of all annotations but crowds, with score 1."""
    coco = COCO(str(path))
    detections = []
    for annotation in coco.dataset['annotations']:
        if not annotation['iscrowd']:
            mask = coco.annToRLE(annotation)
            counts = mask['counts']
            if isinstance(counts, bytes):
                counts = counts.decode()
            detections.append(
                dict(
                    image_id=annotation['image_id'],
                    category_id=annotation['category_id'],
                    bbox=annotation['bbox'],
                    score=1.,
                    segmentation=dict(size=mask['size'], counts=counts)))
    return detections


@pytest.fixture(scope='module')
def detections(shapes_json) -> list:
    return ground_truth_as_detections(shapes_json)


@pytest.fixture(scope='module')
def images(shapes_json):
    return read_image_list(shapes_json)


@pytest.fixture(scope='module')
def num_empty(images, detections) -> int:
    return len(images.sizes) - len({d['image_id'] for d in detections})


def pack(folder: Path, content) -> Path:
    """Zip detections, or the text of a json, without any check."""
    path = folder / f'{NAME}.zip'
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f'{NAME}.json', content)
    return path


@pytest.mark.parametrize('task', ['bbox', 'segm'])
def test_ground_truth_scores_one(annotations, task, tmp_path):
    images = read_image_list(annotations)
    detections = ground_truth_as_detections(annotations)
    path = tmp_path / coco_package_name('val2017', 'ground_truth')
    assert path.name == 'detections_val2017_ground-truth_results.zip'
    summary = write_coco_package(detections, path, images, task)
    assert summary.num_results == len(detections)
    assert list(tmp_path.iterdir()) == [path]

    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f'{path.stem}.json']
        content = json.loads(archive.read(f'{path.stem}.json'))
    key = dict(bbox='bbox', segm='segmentation')[task]
    assert set(content[0]) == {'image_id', 'category_id', 'score', key}
    coco = COCO(str(annotations))
    evaluation = COCOeval(coco, coco.loadRes(content), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1, abs=5e-4)

    # It is accepted again with the command that was printed.
    num_empty = len(images.sizes) - summary.num_images
    assert f'--allow-empty-images {num_empty}' in str(summary)
    assert check_coco_package(path, images, num_empty).kind == task


def test_the_same_detections_give_the_same_bytes(detections, images, tmp_path):
    contents = []
    for name in ('one', 'two'):
        path = tmp_path / name / f'{NAME}.zip'
        write_coco_package(detections, path, images, 'segm')
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_what_cannot_score_is_left_out(detections, images, tmp_path):
    first = detections[0]
    more = [dict(first, score=i / 200) for i in range(120)]
    flat = dict(first, bbox=[3., 3., 0.001, 5.], score=.9)
    summary = write_coco_package(more + [flat], tmp_path / f'{NAME}.zip',
                                 images, 'bbox')
    assert summary.num_results == 100
    assert 'left out 1 boxes without an area' in str(summary)
    assert 'left out 20 detections beyond the 100 best' in str(summary)
    with zipfile.ZipFile(summary.path) as archive:
        kept = json.loads(archive.read(f'{NAME}.json'))
    assert [d['score'] for d in kept] == [i / 200 for i in range(119, 19, -1)]


def test_boxes_keep_two_digits(detections, images, tmp_path):
    exact = dict(detections[0], bbox=[10.1234, 1 / 3, 5.5, 6.006])
    summary = write_coco_package([exact], tmp_path / f'{NAME}.zip', images,
                                 'bbox')
    with zipfile.ZipFile(summary.path) as archive:
        detection, = json.loads(archive.read(f'{NAME}.json'))
    assert detection['bbox'] == [10.12, 0.33, 5.5, 6.01]


def test_an_earlier_package_is_kept(detections, images, tmp_path):
    path = tmp_path / f'{NAME}.zip'
    path.write_bytes(b'earlier')
    with pytest.raises(match='exists.*--overwrite'):
        write_coco_package(detections, path, images, 'bbox')
    bad = [dict(detections[0], score=1.5)]
    with pytest.raises(match='scores outside'):
        write_coco_package(bad, path, images, 'bbox', overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b'earlier'
    write_coco_package(detections, path, images, 'bbox', overwrite=True)
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize('name', ['', 'a/b', 'a b', '../x', 'ä/'])
def test_names_that_the_server_cannot_read(name):
    with pytest.raises(match='cannot be a name'):
        coco_package_name('val2017', name)


def without(detections, key) -> list:
    """Copies of detections without boxes or masks."""
    return [{
        k: v
        for k, v in deepcopy(d).items() if k != key
    } for d in detections]


# Each changes a copy of the good detections of boxes.
def to_corners(detections):
    for d in detections:
        x, y, w, h = d['bbox']
        d['bbox'] = [x, y, x + w, y + h]


def put(key, value, index=0):

    def change(detections):
        detections[index][key] = value

    return change


def drop(key):
    return lambda detections: detections[0].pop(key)


def lose_half(detections):
    ids = sorted({d['image_id'] for d in detections})[::2]
    detections[:] = [d for d in detections if d['image_id'] not in ids]


def repeat_101_times(detections):
    detections += [deepcopy(detections[0]) for _ in range(100)]


def number_classes(detections):
    for d in detections:
        d['category_id'] -= 1


BAD_BOXES = {
    'unknown image': (put('image_id', 10**9), 'image ids that are not in'),
    'image id as text': (put('image_id', '139'), 'image ids that are no int'),
    'image id is true': (put('image_id', True), 'image ids that are no int'),
    'no image id': (drop('image_id'), 'image ids that are no integers'),
    'class numbers': (number_classes, 'category ids that are not official'),
    'unknown category': (put('category_id',
                             91), r'not official .*image \d+: 91'),
    'category as text': (put('category_id', 'cat'), "no integers.*'cat'"),
    'missing images': (lose_half, 'missing images: .* have no detection'),
    'xyxy': (to_corners, r'boxes look like \[x1, y1, x2, y2\]'),
    'leaves right': (put('bbox', [90, 2, 8.1, 5]), 'leave their image.*96'),
    'leaves below': (put('bbox', [2, 90, 5, 8.1]), 'leave their image'),
    'leaves left': (put('bbox', [-2, 2, 5, 5]), 'leave their image'),
    'no width': (put('bbox', [2, 2, 0, 5]), 'without a width or a height'),
    'negative height': (put('bbox', [2, 9, 5, -3]), 'without a width'),
    'three numbers': (put('bbox', [2, 2, 5]), 'no four finite numbers'),
    'numbers as text': (put('bbox',
                            ['2', '2', '5', '5']), 'no four finite numbers'),
    'infinite box': (put('bbox', [2, 2, float('inf'), 5]), 'Infinity'),
    'no box': (drop('bbox'), 'no four finite numbers.*None'),
    'score above 1': (put('score', 1.01), r'scores outside of \[0, 1\].*1.01'),
    'score in per cent': (put('score', 87), r'scores outside of \[0, 1\].*87'),
    'negative score': (put('score', -.1), 'scores outside'),
    'score as text': (put('score', '0.9'), "no finite numbers.*'0.9'"),
    'score is true': (put('score', True), 'scores that are no finite'),
    'score is nan': (put('score', float('nan')),
                     '(?s)json does not have: NaN.*scores that are no finite'),
    'score is huge': (put('score', 10**400), 'scores that are no finite'),
    'no score': (drop('score'), 'scores that are no finite numbers.*None'),
    '101 in an image': (repeat_101_times, 'more than 100 detections: 10'),
    'no object': (lambda d: d.insert(0, [1, 2]), 'no json objects'),
    'empty': (lambda d: d.clear(), 'list of detections is empty'),
}


def mask(**values):

    def change(detections):
        detections[0]['segmentation'].update(values)

    return change


def wrong_size(detections):
    """Masks of the network's input instead of the image."""
    for d in detections:
        d['segmentation'] = mask_api.encode(
            np.ones((48, 48), np.uint8, order='F'))
        d['segmentation']['counts'] = d['segmentation']['counts'].decode()


BAD_MASKS = {
    'another size': (wrong_size, 'masks of another size than their image: '),
    'size in text': (mask(size=['96', '96']), r'no \[height, width\]'),
    'negative size': (mask(size=[-96, -96]), r'no \[height, width\]'),
    'polygon': (put('segmentation', [[1, 1, 5, 1, 5, 5]]), 'are no RLE'),
    'no counts': (put('segmentation', dict(size=[96, 96])), 'are no RLE'),
    'uncompressed': (mask(counts=[9, 9200, 7]), 'no compressed RLE'),
    'too short': (mask(counts='12'), 'RLE does not fill their size'),
    'too long': (mask(counts='oooooo3'), 'RLE (cannot|does not)'),
    'cut off': (mask(counts='o'), 'RLE cannot be decoded'),
    'no characters': (mask(counts=''), 'RLE cannot be decoded'),
    'other characters': (mask(counts='\x00\x7f~'), 'RLE cannot be decoded'),
    'not ascii': (mask(counts='äöü'), 'RLE cannot be decoded'),
    'negative runs': (mask(counts='OOOO'), 'RLE cannot be decoded'),
    'a long number': (mask(counts='o' * 10**5 + '0'), 'cannot be decoded'),
    'missing masks': (drop('segmentation'), 'are no RLE.*None'),
}


@pytest.mark.parametrize(
    'unused, change, reason', [
        *(('segmentation', *case) for case in BAD_BOXES.values()),
        *(('bbox', *case) for case in BAD_MASKS.values()),
    ],
    ids=[*BAD_BOXES, *BAD_MASKS])
def test_bad_detections(unused, change, reason, detections, images, num_empty,
                        tmp_path):
    changed = without(detections, unused)
    check_coco_package(pack(tmp_path, changed), images, num_empty)
    change(changed)
    with pytest.raises(match=reason):
        check_coco_package(pack(tmp_path, changed), images, num_empty)


BAD_JSON = {
    'cut off': ('[{"image_id": 1', 'not readable json'),
    'no json': ('hello', 'not readable json'),
    'no text': (b'\xff\xfe\x00', 'not readable json'),
    'nested': ('[' * 10**5, 'not readable json'),
    'long number': ('[' + '9' * 10**4 + ']', 'not readable json|no json obj'),
    'an object': ('{"annotations": []}', 'no list of detections.*dict'),
    'a number': ('3', 'no list of detections.*int'),
}


@pytest.mark.parametrize('case', BAD_JSON)
def test_bad_json(case, images, tmp_path):
    content, reason = BAD_JSON[case]
    with pytest.raises(match=reason):
        check_coco_package(pack(tmp_path, content), images)


def zip_again(compression=zipfile.ZIP_DEFLATED, inside=f'{NAME}.json'):
    """Write the json in another way."""

    def change(path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(f'{NAME}.json')
        with zipfile.ZipFile(path, 'w', compression) as archive:
            archive.writestr(inside, content)

    return change


def add(*names):
    """Add empty files."""

    def change(path):
        with zipfile.ZipFile(path, 'a') as archive:
            for name in names:
                archive.writestr(name, b'')

    return change


def cut_off(share):

    def change(path):
        content = path.read_bytes()
        path.write_bytes(content[:int(share * len(content))])

    return change


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xff
    path.write_bytes(content)


def mark_as_encrypted(path):
    content = bytearray(path.read_bytes())
    # The flags in the list of contents; the local ones are not looked at.
    content[content.rindex(b'PK\x01\x02') + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize('change, reason', [
    (zip_again(inside=f'results/{NAME}.json'), 'wrong zip layout.*top level'),
    (zip_again(inside=f'../{NAME}.json'), 'point outside of the package'),
    (zip_again(inside=f'/tmp/{NAME}.json'), 'point outside of the package'),
    (zip_again(inside=f'C:\\{NAME}.json'), 'point outside of the package'),
    (zip_again(inside='results.json'), 'server does not know.*results.json'),
    (zip_again(inside=f'{NAME}.txt'), r'no \.json'),
    (zip_again(inside='detections_val2017_other_results.json'),
     'different names'),
    (zip_again(zipfile.ZIP_LZMA), 'unusual compression'),
    (add(f'__MACOSX/._{NAME}.json'), 'that an operating system added'),
    (add('.DS_Store'), 'that an operating system added'),
    (add('masks/'), 'folders .wrong zip layout'),
    (add('detections_val2017_two_results.json'),
     'expected one .json file, found 2'),
    (add('README.txt'), 'files that are no .json: README.txt'),
    (add(f'{NAME}.json'), 'files that are there twice'),
    (flip_a_byte, 'truncated or damaged'),
    (mark_as_encrypted, 'encrypted files'),
    (cut_off(0), 'not a zip file'),
    *((cut_off(share), 'truncated') for share in (.001, .5, .9, .999)),
    (lambda path: path.write_text('[]'), 'not a zip file'),
    (lambda path: path.unlink(), 'results.zip does not exist'),
])
@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_bad_zip_files(change, reason, detections, images, num_empty, tmp_path):
    path = pack(tmp_path, detections)
    change(path)
    with pytest.raises(match=reason):
        check_coco_package(path, images, num_empty)


def test_packages_that_are_too_large_are_not_unpacked(detections, tmp_path):
    path = pack(tmp_path, b' ' * (32 << 20))
    with pytest.raises(match='unpack to more than real'):
        check_coco_package(path)
    path = pack(tmp_path, detections)
    with pytest.raises(match='too large.*at most 1000 are read'):
        check_coco_package(path, max_bytes=1000)


def test_all_problems_are_listed(detections, images, num_empty, tmp_path):
    changed = without(detections, 'segmentation')
    for i in range(5):
        changed[i]['score'] = 2
    changed[7]['category_id'] = 0
    changed[8]['image_id'] = -1
    with pytest.raises(MMHierError) as refusal:
        check_coco_package(pack(tmp_path, changed), images, num_empty)
    lines = str(refusal.value).splitlines()
    assert lines[0].endswith('cannot be submitted:')
    assert lines[1].startswith('  - scores outside of [0, 1]: 5, such as '
                               'number 0 in image')
    assert lines[1].count('number') == 3
    assert len(lines) == 4


def test_without_an_image_list(detections, tmp_path):
    boxes = without(detections, 'segmentation')
    summary = check_coco_package(pack(tmp_path, boxes))
    assert 'not checked without an image list' in str(summary)
    # Corners are told by all boxes together.
    to_corners(boxes)
    with pytest.raises(match='boxes look like'):
        check_coco_package(pack(tmp_path, boxes))
    boxes[0]['category_id'] = 12
    with pytest.raises(match='not official .the 80 ids'):
        check_coco_package(pack(tmp_path, boxes))


def test_legal_but_unusual_is_noted(detections, images, num_empty, tmp_path):
    summary = check_coco_package(
        pack(tmp_path, detections + [dict(detections[0], score=.5)]), images,
        num_empty)
    assert '1 detections are there twice' in str(summary)
    assert f'{len(detections) + 1} masks come with a "bbox"' in str(summary)


@pytest.mark.parametrize('content, reason', [
    (None, 'cannot read image list .*No such file'),
    ('[', 'not readable json'),
    ('[]', 'no COCO json'),
    ('{"images": [{"id": 1}]}', 'no COCO json'),
    ('{"images": []}', 'lists no images'),
])
def test_bad_image_lists(content, reason, tmp_path):
    path = tmp_path / 'list.json'
    if content is not None:
        path.write_text(content)
    with pytest.raises(match=reason):
        read_image_list(path)
