"""tools/visualize.py and tools/web_demo.py, in process."""
import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmhier.apis import MMHierError
from mmhier.apis.predictor import Predictor
from mmhier.cli import web_demo
from mmhier.visualization.browsing import browse
from mmhier.visualization.pictures import (
    draw_attention,
    draw_features,
    draw_offsets,
    draw_receptive_field,
    load_photo,
    load_subjects,
)
from ..commands import load_tool
from .conftest import CONFIGS, DETECTOR

TOOLS = Path(__file__).parents[2] / 'tools'
SEGMENTOR = str(CONFIGS / 'segmentor.py')
CLASSIFIER = str(CONFIGS / 'classifier.py')
LIT = {
    'model.backbone':
    dict(type='mmhier.LIT', arch='tiny', out_indices=(0, 1, 2, 3)),
    'model.head.in_channels': 512
}
# Height of the title, and width of the gap between panels.
LINE, GAP = 20, 6


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('photo') / 'photo.png'
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (192, 128)))
    return str(path)


@pytest.fixture(scope='module')
def segmentors():
    """The same backbone twice: a drawing has a column for each."""
    torch.manual_seed(0)
    return load_subjects([SEGMENTOR, SEGMENTOR], device='cpu')


@pytest.fixture(scope='module')
def lit():
    return load_subjects([CLASSIFIER], device='cpu', cfg_options=LIT)


def size_of(rows, columns, lines, height=64, width=96):
    """Of a drawing of panels, each below lines of text."""
    return (rows * (height + LINE * lines + 4) + GAP * (rows - 1),
            columns * width + GAP * (columns - 1), 3)


def test_photos_are_resized_to_multiples_of_32(photo, tmp_path):
    picture, scale = load_photo(photo, 64)
    assert picture.shape == (64, 96, 3) and scale == (0.5, 0.5)
    image = cv2.resize(
        cv2.imread(photo), (96, 64), interpolation=cv2.INTER_AREA)
    assert (picture == image[..., ::-1]).all()
    cv2.imwrite(str(tmp_path / 'thin.png'), np.zeros((3, 300, 3), np.uint8))
    (tmp_path / 'text.png').write_text('no image')
    for path, size, message in (('thin.png', 64, 'too long and narrow'),
                                ('text.png', 64, 'is damaged or not an image'),
                                ('none.png', 64, 'cannot be read'),
                                ('thin.png', 16, '--size 16')):
        with pytest.raises(MMHierError, match=message):
            load_photo(str(tmp_path / path), size)


def test_the_backbone_gets_what_the_models_preprocessor_makes(
        segmentors, photo):
    picture, _ = load_photo(photo, 64)
    expected = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    # This config has neither mean nor std; bgr_to_rgb gives RGB.
    assert torch.equal(segmentors[0].normalize(picture), expected)


def test_attention(segmentors, photo):
    # Photo, windows and pooled map, one column for each model.
    one = draw_attention(segmentors[:1], photo, (50, 20), stage=2, size=64)
    assert one.shape == size_of(3, 1, 2)
    both = draw_attention(segmentors, photo, (50, 20), stage=2, size=64)
    assert both.shape == size_of(3, 2, 2)
    single = draw_attention(
        segmentors[:1], photo, stage=2, block=0, head=1, size=64)
    assert single.shape == one.shape and (single != one).any()
    # A row for the photo, one with the heads of each attention.
    every = draw_attention(segmentors[:1], photo, stage=2, head='all', size=64)
    assert every.shape == size_of(3, 2, 2)
    for changes, message in ((dict(head=2), '--head 2: this block has heads '
                              '0 to 1'), (dict(stage=7), 'stage 7'),
                             (dict(point=(500, 0)), 'outside')):
        with pytest.raises(MMHierError, match=message):
            draw_attention(segmentors, photo,
                           **dict(dict(stage=2, size=64), **changes))


def test_attention_follows_the_point(segmentors, photo):
    """Pixels of the photo as stored: the window is where they are shown."""
    picture = draw_attention(
        segmentors[:1], photo, (150, 100), stage=1, size=64)
    top = size_of(1, 1, 2)[0] + GAP + 2 * LINE + 4
    windows = picture[top:top + 64].astype(int)
    coloured = np.ptp(windows, axis=2) > 40
    rows, columns = np.nonzero(coloured)
    # The token at (75, 50) lies in the window from (64, 32) to (96, 64).
    assert (rows.min(), columns.min()) == (32, 64)


def test_offsets(lit, segmentors, photo):
    # Three mergings and the close-up of one token.
    picture = draw_offsets(lit, photo, size=64)
    assert picture.shape == size_of(4, 1, 2)
    with pytest.raises(MMHierError, match='HATNet merges no tokens'):
        draw_offsets(segmentors, photo, size=64)
    with pytest.raises(MMHierError, match='--point lies outside'):
        draw_offsets(lit, photo, (300, 0), size=64)


def test_receptive_field(segmentors, photo):
    picture = draw_receptive_field(segmentors[:1], photo, size=64)
    assert picture.shape == size_of(4, 1, 3, width=64)


def test_features(segmentors, photo):
    # The photo and four levels, in two columns for each model.
    picture = draw_features(segmentors, photo, size=64)
    assert picture.shape == size_of(5, 4, 2)
    with pytest.raises(MMHierError, match='has no neck'):
        draw_features(segmentors, photo, 'neck', size=64)
    detector = load_subjects([DETECTOR], device='cpu')
    picture = draw_features(detector, photo, 'neck', size=64)
    assert picture.shape == size_of(6, 2, 2)


@pytest.mark.parametrize(
    'draw',
    [partial(draw_attention, stage=3), draw_receptive_field, draw_features])
def test_two_families_side_by_side(segmentors, lit, photo, draw):
    """Each as it is drawn alone; HAT-Net's attention has a map more."""
    both = draw([segmentors[0], lit[0]], photo, size=64)
    right = 0
    for subject in (segmentors[0], lit[0]):
        alone = draw([subject], photo, size=64)
        height, width = alone.shape[:2]
        assert (both[:height, right:right + width] == alone).all()
        assert (both[height:, right:right + width] == 255).all()
        right += width + GAP
    assert both.shape[1] == right - GAP


def test_vectors_are_no_feature_maps(photo):
    classifier = load_subjects([CLASSIFIER], device='cpu')
    with pytest.raises(MMHierError, match='returns vectors, not maps'):
        draw_features(classifier, photo, 'neck', size=64)


def test_checkpoints(detector_run):
    checkpoint = str(Path(detector_run.work_dir) / 'epoch_1.pth')
    subject, = load_subjects([DETECTOR], [checkpoint], 'cpu')
    stored = torch.load(checkpoint, weights_only=False)['state_dict']
    own = subject.model.state_dict()
    assert all(torch.equal(own[name], stored[name]) for name in own)
    assert 'initial weights' not in subject.name
    with pytest.raises(MMHierError, match='1 configs, but 2 checkpoints'):
        load_subjects([DETECTOR], [checkpoint, checkpoint])
    with pytest.raises(MMHierError, match='none.pth does not exist'):
        load_subjects([DETECTOR], ['none.pth'])


@pytest.mark.parametrize('config, root, count', [
    (DETECTOR, 'coco_root', 5),
    (SEGMENTOR, 'masks_root', 4),
    (CLASSIFIER, 'folders_root', 4),
])
def test_browse_draws_every_sample(config, root, count, request, tmp_path):
    root = str(request.getfixturevalue(root))
    # Training leaves the image without annotations out.
    assert browse(config, str(tmp_path / 'all'), data_root=root) == (count, [])
    pictures = sorted((tmp_path / 'all').iterdir())
    assert [p.name[:6] for p in pictures] == [f'{i:05d}_' for i in range(count)]
    for path in pictures:
        assert cv2.imread(str(path)).shape[0] == 64
    arguments = dict(data_root=root, num=2, split='val')
    assert browse(config, str(tmp_path / 'two'), **arguments)[0] == 2
    with pytest.raises(MMHierError, match='two holds files'):
        browse(config, str(tmp_path / 'two'), **arguments)
    browse(config, str(tmp_path / 'two'), overwrite=True, **arguments)


def test_browse_draws_boxes_where_they_are(coco_root, tmp_path):
    browse(DETECTOR, str(tmp_path), data_root=str(coco_root), num=1)
    path, = tmp_path.iterdir()
    assert path.name == '00000_001.jpg'
    plain = cv2.imread(str(coco_root / 'train2017/001.jpg')).astype(int)
    changed = np.abs(cv2.imread(str(path)).astype(int) - plain).max(2) > 80
    # The image holds a white box of 50x14 pixels, drawn over in colour.
    white = plain.min(2) > 200
    assert changed[white].mean() > 0.5


@pytest.mark.parametrize('with_mask', [True, False])
def test_browse_applies_the_pipeline_to_boxes_and_masks(coco_root, tmp_path,
                                                        with_mask):
    """Twice as large and mirrored, the annotations with the image."""
    browse(
        DETECTOR,
        str(tmp_path),
        data_root=str(coco_root),
        num=1,
        cfg_options={
            'train_dataloader.dataset.pipeline': [
                dict(type='LoadImageFromFile'),
                dict(
                    type='LoadAnnotations', with_bbox=True,
                    with_mask=with_mask),
                dict(type='Resize', scale=(192, 128)),
                dict(type='RandomFlip', prob=1.),
                dict(type='PackDetInputs')
            ]
        })
    path, = tmp_path.iterdir()
    stored = cv2.imread(str(coco_root / 'train2017/001.jpg'))
    expected = cv2.resize(stored, (192, 128))[:, ::-1].astype(int)
    changed = np.abs(cv2.imread(str(path)) - expected).max(2) > 80
    white = (expected.min(2) > 200).astype(np.uint8)
    inside = cv2.erode(white, np.ones((7, 7))) > 0
    edge = (white > 0) & ~inside
    assert changed[edge].mean() > 0.2
    # Besides the colour of a mask there is the label.
    assert (changed[inside].mean() > 0.5) == with_mask
    assert changed[cv2.dilate(white, np.ones((9, 9))) == 0].mean() < 0.02


def test_browse_applies_the_pipeline_to_segmentations(masks_root, tmp_path):
    browse(
        SEGMENTOR,
        str(tmp_path),
        data_root=str(masks_root),
        num=1,
        cfg_options={
            'train_dataloader.dataset.dataset.pipeline': [
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='RandomFlip', prob=1.),
                dict(type='PackSegInputs')
            ]
        })
    path, = tmp_path.iterdir()
    image, mask = (
        cv2.imread(str(masks_root / kind))[:, ::-1].astype(int)
        for kind in ('images/training/0.jpg', 'annotations/training/0.png'))
    # 0.6 of a colour for each class over 0.4 of the image.
    colour = cv2.imread(str(path)) - 0.4 * image
    medians = []
    for region in (mask[..., 0] == 1, mask[..., 0] == 0):
        medians.append(np.median(colour[region], 0))
        away = np.abs(colour[region] - medians[-1]).max(1)
        # The name of the class is written on it.
        assert (away < 30).mean() > 0.7
    assert np.abs(medians[0] - medians[1]).max() > 30


def test_browse_names_what_cannot_be_loaded(folders_root, tmp_path):
    """Of four images one is no image: three pictures, one reason."""
    broken = tmp_path / 'folders'
    for path in folders_root.glob('train/*/*.jpg'):
        copy = broken / path.relative_to(folders_root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (broken / 'val').symlink_to(folders_root / 'val')
    (broken / 'train/dark/dark_0.jpg').write_text('no image')
    count, skipped = browse(
        CLASSIFIER, str(tmp_path / 'out'), data_root=str(broken))
    assert count == 3
    assert len(skipped) == 1 and skipped[0].startswith('dark_0.jpg: ')


@pytest.mark.parametrize('changes, message', [
    (dict(num=0), '--num 0: expected at least 1'),
    (dict(config='none.py'), 'none.py does not exist'),
    (dict(cfg_options=dict(visualizer=None)), 'has no visualizer'),
    (dict(data_root='/nowhere'), '/nowhere'),
])
def test_browse_mistakes(changes, message, tmp_path):
    with pytest.raises(MMHierError, match=message):
        browse(**dict(dict(config=SEGMENTOR, out_dir=str(tmp_path)), **changes))


def run_main(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *arguments])
    load_tool(f'tools/{name}.py').main()


def test_commands(photo, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / 'sub' / 'out.png')
    command = ('features', photo, '--configs', SEGMENTOR, '--size', '64',
               '--out', out)
    run_main(monkeypatch, 'visualize', *command)
    assert cv2.imread(out).shape == size_of(5, 2, 2)
    assert os.listdir(tmp_path / 'sub') == ['out.png']
    assert capsys.readouterr().out.splitlines()[-1] == f'drawn to {out}'
    with pytest.raises(MMHierError, match='out.png exists'):
        run_main(monkeypatch, 'visualize', *command)
    run_main(monkeypatch, 'visualize', *command, '--overwrite')
    with pytest.raises(MMHierError, match='must end with .png or .jpg'):
        run_main(monkeypatch, 'visualize', *command[:-1], 'out.gif')
    run_main(monkeypatch, 'visualize', 'attention', photo, '--configs',
             SEGMENTOR, '--size', '64', '--point', '3', '4', '--head', '0',
             '--stage', '3', '--block', '1', '--out', f'{tmp_path}/a.jpg')
    assert (tmp_path / 'a.jpg').is_file()


def test_browse_command(folders_root, tmp_path, monkeypatch, capsys):
    run_main(monkeypatch, 'visualize', 'browse', CLASSIFIER, '--data-root',
             str(folders_root), '--out-dir', str(tmp_path / 'out'), '--num',
             '2')
    assert f'2 samples drawn to {tmp_path}/out' in capsys.readouterr().out


@pytest.mark.parametrize('name, example', [
    ('visualize', 'mmhier visualize offsets photo.jpg'),
    ('web_demo', 'mmhier web-demo CONFIG CHECKPOINT'),
])
def test_help_has_examples(name, example, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, name, '--help')
    assert example in capsys.readouterr().out


def test_command_in_a_process_of_its_own(photo):
    process = subprocess.run([
        sys.executable, TOOLS / 'visualize.py', 'attention', photo, '--configs',
        'none.py', '--out', 'none.png'
    ],
                             capture_output=True,
                             text=True,
                             timeout=300)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        'error: config file none.py does not exist')


def test_web_page_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(MMHierError, match=r'run pip install "mmhier\[web\]"'):
        run_main(monkeypatch, 'web_demo', DETECTOR, 'none.pth')


def test_web_page_on_a_used_port(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', FakeGradio())
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(MMHierError, match=f'cannot listen on .*:{port}'):
            run_main(monkeypatch, 'web_demo', 'no.py', 'no.pth', '--port', port)


class FakeGradio:
    """Keeps the function that the page would call."""

    class Error(Exception):
        pass

    def Interface(self, function, *_, **__):
        return function

    def __getattr__(self, _):
        return lambda **_: None


def test_what_the_web_page_answers(detector_run, coco_root):
    checkpoint = str(Path(detector_run.work_dir) / 'epoch_1.pth')
    predictor = Predictor(DETECTOR, checkpoint, score_thr=0., device='cpu')
    answer = web_demo.build_page(FakeGradio(), predictor, '')
    bgr = cv2.imread(str(coco_root / 'val2017/002.jpg'))
    picture, record = answer(bgr[..., ::-1])
    assert picture.shape == bgr.shape
    expected, = predictor.predict([bgr])
    assert record == expected.record and record['instances']
    with pytest.raises(FakeGradio.Error, match='choose a photo first'):
        answer(None)
    with pytest.raises(FakeGradio.Error, match='the photo has 5000x1 pixels'):
        answer(np.zeros((1, 5000, 3), np.uint8))


@pytest.mark.slow
def test_web_page_answers_over_http(detector_run, coco_root, tmp_path,
                                    monkeypatch):
    from gradio_client import Client, handle_file
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    checkpoint = str(Path(detector_run.work_dir) / 'epoch_1.pth')
    image = tmp_path / 'image.png'
    bgr = cv2.imread(str(coco_root / 'val2017/002.jpg'))
    cv2.imwrite(str(image), bgr)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    page = subprocess.Popen([
        sys.executable, '-u', TOOLS / 'web_demo.py', DETECTOR, checkpoint,
        '--score-thr', '0', '--device', 'cpu', '--port',
        str(port)
    ],
                            stdout=subprocess.PIPE,
                            text=True,
                            env=dict(os.environ, OMP_NUM_THREADS='1'))
    try:
        url = f'http://127.0.0.1:{port}'
        assert any(url in line for line in page.stdout), page.wait()
        picture, record = Client(
            url, verbose=False).predict(
                handle_file(image), api_name='/predict')
    finally:
        page.terminate()
        page.wait()
    predictor = Predictor(DETECTOR, checkpoint, score_thr=0., device='cpu')
    expected, = predictor.predict([bgr])
    assert record['instances'] and record == json.loads(
        json.dumps(expected.record))
    assert cv2.imread(picture).shape == bgr.shape
