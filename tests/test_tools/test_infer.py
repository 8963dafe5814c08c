"""tools/infer.py: input, output, skipped files and errors."""
import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as mask_api
from mmhier.apis import MMHierError
from mmhier.apis.inference import (
    UnreadableImage,
    infer,
    list_images,
    read_image,
)
from mmhier.apis.predictor import Predictor
from mmhier.cli import infer as infer_command
from .conftest import CONFIGS, DETECTOR
from .samples import CLASSES

TOOL = Path(__file__).parents[2] / 'tools' / 'infer.py'
SEGMENTOR = str(CONFIGS / 'segmentor.py')
CLASSIFIER = str(CONFIGS / 'classifier.py')


@pytest.fixture(scope='module')
def detector(detector_run) -> str:
    return str(Path(detector_run.work_dir) / 'epoch_1.pth')


@pytest.fixture(scope='module')
def random_weights(tmp_path_factory):
    """Checkpoint of a config's model as it is initialized."""

    def save(config: str, classes) -> str:
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        path = tmp_path_factory.mktemp('weights') / 'random.pth'
        torch.save(
            dict(
                state_dict=model.state_dict(),
                meta=dict(dataset_meta=dict(classes=classes))), path)
        return str(path)

    return save


@pytest.fixture(scope='module')
def photo() -> np.ndarray:
    """Smooth colours, so that JPEG changes little; BGR."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC)


def load_json(folder) -> dict:
    return json.loads(Path(folder, 'predictions.json').read_text())


def test_detections_are_those_of_mmdets_inferencer(detector, coco_root,
                                                   tmp_path):
    from mmdet.apis import DetInferencer
    image = coco_root / 'val2017' / '002.jpg'
    official = DetInferencer(
        DETECTOR, detector, device='cpu')(
            str(image),
            return_datasamples=True)['predictions'][0].pred_instances
    # Some lie below.
    score_thr = official.scores.mean().item()
    official = official[official.scores >= score_thr]
    result = infer(
        DETECTOR,
        detector,
        str(image),
        out_dir=str(tmp_path),
        score_thr=score_thr)
    assert result == load_json(tmp_path)
    assert result['task'] == 'detection'
    assert result['classes'] == list(CLASSES)
    assert result['skipped'] == []
    entry, = result['images']
    assert (entry['width'], entry['height']) == (96, 64)
    assert 0 < len(official) == len(entry['instances'])
    for i, found in enumerate(entry['instances']):
        x, y, width, height = found['bbox']
        torch.testing.assert_close(
            torch.tensor([x, y, x + width, y + height]), official.bboxes[i])
        assert found['score'] == pytest.approx(official.scores[i].item())
        assert found['label'] == official.labels[i]
        assert found['class'] == CLASSES[found['label']]
        mask = mask_api.decode(found['mask']).astype(bool)
        assert (mask == official.masks[i].numpy()).all()
    scores = [found['score'] for found in entry['instances']]
    assert scores == sorted(scores, reverse=True)
    picture = cv2.imread(str(tmp_path / entry['picture']))
    assert picture.shape == (64, 96, 3)
    # Something is drawn on it.
    assert np.abs(picture.astype(int) - cv2.imread(str(image))).max() > 60


def test_label_maps_are_those_of_mmsegs_inferencer(random_weights, photo,
                                                   tmp_path):
    from mmseg.apis import MMSegInferencer
    weights = random_weights(SEGMENTOR, ('ground', 'tile'))
    cv2.imwrite(str(tmp_path / 'photo.png'), photo)
    result = infer(
        SEGMENTOR,
        weights,
        str(tmp_path / 'photo.png'),
        out_dir=str(tmp_path / 'out'))
    entry, = result['images']
    labels = cv2.imread(
        str(tmp_path / 'out' / entry['labels']), cv2.IMREAD_UNCHANGED)
    official = MMSegInferencer(
        SEGMENTOR, weights, device='cpu')(photo)['predictions']
    assert labels.dtype == np.uint8
    assert (labels == official).all() and 0 < labels.mean() < 1
    assert {
        s['class']: s['pixels']
        for s in entry['segments']
    } == {
        'ground': int((official == 0).sum()),
        'tile': int((official == 1).sum())
    }
    assert (tmp_path / 'out' / entry['picture']).is_file()


def test_classes_are_those_of_mmpretrains_inferencer(random_weights, photo,
                                                     tmp_path):
    from mmpretrain import ImageClassificationInferencer
    weights = random_weights(CLASSIFIER, ('bright', 'dark'))
    cv2.imwrite(str(tmp_path / 'photo.png'), photo)
    result = infer(
        CLASSIFIER,
        weights,
        str(tmp_path / 'photo.png'),
        out_dir=str(tmp_path / 'out'))
    official, = ImageClassificationInferencer(
        CLASSIFIER, weights, device='cpu')(
            str(tmp_path / 'photo.png'))
    # Fewer classes than top_k.
    first, second = result['images'][0]['top']
    assert first['class'] == official['pred_class']
    assert first['score'] == pytest.approx(float(official['pred_score']))
    assert first['score'] + second['score'] == pytest.approx(1)
    top, = infer(
        CLASSIFIER,
        weights,
        str(tmp_path / 'photo.png'),
        out_dir=str(tmp_path / 'top'),
        top_k=1)['images'][0]['top']
    assert top == first


def test_batches_change_nothing(detector, coco_root, tmp_path):
    results = [
        infer(
            DETECTOR,
            detector,
            str(coco_root / 'val2017'),
            out_dir=str(tmp_path / str(size)),
            score_thr=0.02,
            batch_size=size) for size in (1, 4)
    ]
    assert [len(r['images']) for r in results] == [6, 6]
    for one, four in zip(*(r['images'] for r in results)):
        assert one['file'] == four['file']
        assert len(one['instances']) == len(four['instances'])
        for a, b in zip(one['instances'], four['instances']):
            assert a['bbox'] == pytest.approx(b['bbox'], abs=1e-2)


def test_full_disk_leaves_no_half_of_a_picture(detector, coco_root, tmp_path,
                                               monkeypatch):
    write = Path.write_bytes

    def fill(path, content):
        if path.name.endswith('002.jpg'):
            write(path, content[:99])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', fill)
    with pytest.raises(
            MMHierError, match=r'^cannot write .*/002\.jpg: No space'):
        infer(
            DETECTOR,
            detector,
            str(coco_root / 'val2017'),
            out_dir=str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ['pictures', 'predictions.json']
    assert sorted(os.listdir(tmp_path / 'pictures')) == ['000.jpg', '001.jpg']
    kept = load_json(tmp_path)
    assert len(kept['images']) == 2 and 'No space' in kept['ended_by']


def test_unusable_files_are_skipped_and_counted(detector, photo, tmp_path,
                                                monkeypatch, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    good = cv2.imencode('.png', photo)[1].tobytes()
    jpeg = cv2.imencode('.jpg', photo)[1].tobytes()
    contents = {
        'empty.jpg': b'',
        'text.jpg': b'no image',
        'cut.png': good[:len(good) // 2],
        'cut.jpg': jpeg[:-200],
        'wide.png': cv2.imencode('.png', photo[:1].repeat(60, 1))[1].tobytes(),
        'dot.png': cv2.imencode('.png', photo[:1, :1])[1].tobytes(),
        'good.png': good,
        'notes.txt': b'not listed',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with open(os.fsencode(folder) + b'/caf\xe9.png', 'wb') as file:
        file.write(good)
    # Links to nowhere are listed, but cannot be read.
    (folder / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    monkeypatch.setattr(sys, 'argv', [
        'infer.py', DETECTOR, detector,
        str(folder), '--out-dir',
        str(tmp_path / 'out'), '--batch-size', '3'
    ])
    with pytest.raises(SystemExit) as exit_:
        infer_command.main()
    assert exit_.value.code == 1
    result = load_json(tmp_path / 'out')
    reasons = {Path(s['file']).name: s['reason'] for s in result['skipped']}
    expected = {
        'empty.jpg': 'is empty (0 bytes)',
        'text.jpg': 'is damaged or not an image',
        'cut.png': 'is damaged or',
        'cut.jpg': 'is damaged or',
        'wide.png': 'has 5760x1 pixels',
        'gone.jpg': 'cannot be read: No such file',
    }
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reasons[name].startswith(reason), reasons[name]
    done = {Path(e['file']).name: e for e in result['images']}
    assert done.keys() == {'dot.png', 'good.png', 'caf\\xe9.png'}
    assert (done['dot.png']['width'], done['dot.png']['height']) == (1, 1)
    assert os.path.exists(
        os.fsencode(tmp_path / 'out') + b'/pictures/caf\xe9.jpg')
    output = capsys.readouterr()
    assert '3 images done, 6 skipped' in output.out
    assert f'skipped: {folder}/empty.jpg is empty (0 bytes)' in output.err


@pytest.mark.parametrize('config, classes', [(SEGMENTOR, ('ground', 'tile')),
                                             (CLASSIFIER, ('bright', 'dark'))])
def test_images_without_area_are_done_or_skipped(random_weights, photo,
                                                 tmp_path, config, classes):
    folder = tmp_path / os.fsdecode(b'\xe9')
    folder.mkdir()
    for name, size in (('dot', (1, 1)), ('wide', (5000, 1)),
                       ('tall', (1, 5000)), ('good', (96, 64))):
        Image.new('RGB', size).save(folder / f'{name}.png')
    weights = folder / 'weights.pth'
    weights.write_bytes(Path(random_weights(config, classes)).read_bytes())
    out_dir = str(folder / 'out')
    result = infer(config, str(weights), str(folder), out_dir=out_dir)
    assert load_json(out_dir) == result
    done = {Path(entry['file']).stem for entry in result['images']}
    skipped = {Path(s['file']).stem: s['reason'] for s in result['skipped']}
    assert 'good' in done and len(done) + len(skipped) == 4
    for name, reason in skipped.items():
        assert 'pixels, which the test pipeline' in reason, name


def test_images_of_every_kind_are_read_as_colour(photo, tmp_path):
    rgb = Image.fromarray(photo[..., ::-1])
    gray = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    cv2.imwrite(str(tmp_path / 'deep.png'), photo.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / 'gray.png'), gray)
    few = rgb.quantize(16)
    few.save(tmp_path / 'palette.png')
    rgb.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    rgb.rotate(90, expand=True).save(tmp_path / 'turned.png', exif=exif)
    expected = {
        'deep.png': photo,
        'gray.png': gray[..., None].repeat(3, 2),
        'palette.png': np.asarray(few.convert('RGB'))[..., ::-1],
        'turned.png': photo
    }
    for name, image in expected.items():
        assert (read_image(str(tmp_path / name)) == image).all(), name
    cmyk = read_image(str(tmp_path / 'cmyk.jpg'))
    assert np.abs(cmyk.astype(int) - photo).mean() < 6


def test_cut_off_image_that_opencv_fills_with_gray(photo, tmp_path,
                                                   monkeypatch):
    """As its versions before 4.12 do."""
    content = cv2.imencode('.jpg', photo)[1].tobytes()
    (tmp_path / 'cut.jpg').write_bytes(content[:-300])
    (tmp_path / 'whole.jpg').write_bytes(content)
    monkeypatch.setattr(cv2, 'imdecode', lambda *_: photo)
    assert read_image(str(tmp_path / 'whole.jpg')) is photo
    with pytest.raises(UnreadableImage, match='is damaged or cut off'):
        read_image(str(tmp_path / 'cut.jpg'))


def test_image_too_large_to_decode(tmp_path, monkeypatch):

    def refuse(*_):
        raise cv2.error('too many pixels')

    (tmp_path / 'large.png').write_bytes(b'x')
    monkeypatch.setattr(cv2, 'imdecode', refuse)
    with pytest.raises(UnreadableImage, match='cannot be decoded'):
        read_image(str(tmp_path / 'large.png'))


def test_what_an_input_stands_for(tmp_path):
    for name in ('b.jpg', 'a.PNG', 'notes.txt', 'sub/c.jpg'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b'x')

    def names(inputs):
        return [os.path.relpath(f, tmp_path) for f in list_images(str(inputs))]

    assert names(tmp_path) == ['a.PNG', 'b.jpg']
    assert names(tmp_path / 'notes.txt') == ['notes.txt']
    assert names(tmp_path / '**/*.jpg') == ['b.jpg', 'sub/c.jpg']
    for inputs, message in (('*.gif', 'matches no file'),
                            ('none.jpg', 'is not a file or a folder')):
        with pytest.raises(MMHierError, match=message):
            list_images(str(tmp_path / inputs))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(MMHierError, match='holds no images'):
        list_images(str(tmp_path / 'empty'))


def test_pictures_of_files_that_share_a_name_stay_apart(detector, photo,
                                                        tmp_path):
    for name in ('in/a.png', 'in/a.bmp', 'in/sub/a.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo)
    result = infer(
        DETECTOR,
        detector,
        str(tmp_path / 'in/**/a.*'),
        out_dir=str(tmp_path / 'out'))
    assert [e['picture'] for e in result['images']] == [
        'pictures/a.bmp.jpg', 'pictures/a.png.jpg', 'pictures/sub/a.jpg'
    ]
    assert all(
        (tmp_path / 'out' / e['picture']).is_file() for e in result['images'])


@pytest.fixture(scope='module')
def film(tmp_path_factory, photo) -> str:
    path = str(tmp_path_factory.mktemp('film') / 'film.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 12,
                             (96, 64))
    for shift in range(5):
        writer.write(np.roll(photo, 8 * shift, 1))
    writer.release()
    return path


def test_video(detector, film, tmp_path):
    result = infer(
        DETECTOR, detector, film, out_dir=str(tmp_path), batch_size=2)
    assert [f['frame'] for f in result['frames']] == [0, 1, 2, 3, 4]
    assert result['skipped'] == []
    video = cv2.VideoCapture(str(tmp_path / 'video.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert video.get(cv2.CAP_PROP_FPS) == 12
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 96
    assert sorted(os.listdir(tmp_path)) == ['predictions.json', 'video.mp4']


@pytest.mark.slow
def test_video_of_a_segmentor_has_label_maps(random_weights, film, tmp_path):
    result = infer(
        SEGMENTOR,
        random_weights(SEGMENTOR, ('ground', 'tile')),
        film,
        out_dir=str(tmp_path),
        max_frames=2)
    assert [f['labels'] for f in result['frames']
            ] == ['labels/000000.png', 'labels/000001.png']


@pytest.mark.parametrize('error, reason',
                         [(None, 'is the disk full'),
                          (cv2.error('broken pipe'), 'frame 3: ')])
def test_video_on_a_full_disk(error, reason, detector, film, tmp_path,
                              monkeypatch):
    """OpenCV's writer may report no error; predictions are kept."""

    class FullDisk:
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, *args, writer=cv2.VideoWriter):
            self.writer = writer(*args)
            self.release = self.writer.release
            self.isOpened = self.writer.isOpened
            self.space = 3

        def write(self, frame):
            if self.space:
                self.writer.write(frame)
                self.space -= 1
            elif error is not None:
                error.err = str(error)
                raise error

    monkeypatch.setattr(cv2, 'VideoWriter', FullDisk)
    with pytest.raises(
            MMHierError, match=f'video.mp4: 3 of 5 frames were.*{reason}'):
        infer(DETECTOR, detector, film, out_dir=str(tmp_path))
    assert os.listdir(tmp_path) == ['predictions.json']
    kept = json.loads((tmp_path / 'predictions.json').read_text())
    assert [f['frame'] for f in kept['frames']] == [0, 1, 2, 3, 4]
    assert '3 of 5 frames' in kept['ended_by']


class FakeCapture:
    """A camera that delivers one photo until it is interrupted."""

    def __init__(self, photo, frames):
        self.photo = photo
        self.frames = frames
        self.released = False

    def connect(self, number, monkeypatch):
        monkeypatch.setattr(
            cv2,
            'VideoCapture',
            lambda source, opened=cv2.VideoCapture: self
            if source == number else opened(source))

    def isOpened(self):
        return True

    def get(self, _):
        return 0.

    def read(self):
        self.frames -= 1
        if self.frames < 0:
            raise KeyboardInterrupt
        return True, self.photo

    def release(self):
        self.released = True


@pytest.mark.slow
@pytest.mark.parametrize('max_frames, expected', [(2, 2), (None, 3)])
def test_camera_ends_with_max_frames_or_ctrl_c(detector, photo, tmp_path,
                                               monkeypatch, max_frames,
                                               expected):
    camera = FakeCapture(photo, 3)
    camera.connect(7, monkeypatch)
    result = infer(
        DETECTOR,
        detector,
        camera=7,
        max_frames=max_frames,
        out_dir=str(tmp_path))
    assert len(result['frames']) == expected
    assert result['video'] == 'camera 7' and camera.released
    assert (tmp_path / 'video.mp4').stat().st_size > 0


def test_video_that_ends_early_is_reported(detector, film, tmp_path):
    cut = tmp_path / 'cut.avi'
    content = Path(film).read_bytes()
    cut.write_bytes(content[:int(len(content) * .55)])
    result = infer(
        DETECTOR, detector, str(cut), out_dir=str(tmp_path), max_frames=5)
    assert 0 < len(result['frames']) < 5
    entry, = result['skipped']
    assert entry['frame'] == len(result['frames'])
    assert 'ends here' in entry['reason']


def test_results_are_not_overwritten_unasked(detector, photo, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), photo)
    arguments = (DETECTOR, detector, str(tmp_path / 'a.png'))
    infer(*arguments, out_dir=str(tmp_path / 'out'))
    before = (tmp_path / 'out/predictions.json').stat().st_mtime_ns
    with pytest.raises(
            MMHierError, match='predictions.json, pictures.*'
            '--overwrite'):
        infer(*arguments, out_dir=str(tmp_path / 'out'))
    assert (tmp_path / 'out/predictions.json').stat().st_mtime_ns == before
    (tmp_path / 'out/pictures/mine.txt').write_text('kept')
    infer(*arguments, out_dir=str(tmp_path / 'out'), overwrite=True)
    assert (tmp_path / 'out/predictions.json').stat().st_mtime_ns > before
    assert (tmp_path / 'out/pictures/mine.txt').read_text() == 'kept'


@pytest.mark.parametrize('changes, message', [
    (dict(inputs=None), 'either an INPUT'),
    (dict(camera=0), 'either an INPUT'),
    (dict(camera=99, inputs=None), 'camera 99 cannot be opened'),
    (dict(inputs='none.mp4'), 'video none.mp4 does not exist'),
    (dict(batch_size=0), '--batch-size 0: expected at least 1'),
    (dict(top_k=0), '--top-k 0: expected at least 1'),
    (dict(device='cuda:77'), '--device cuda:77 cannot be used'),
    (dict(device='gpu'), '--device gpu cannot be used'),
    (dict(checkpoint='none.pth'), 'checkpoint none.pth does not exist'),
    (dict(config='none.py'), 'config file none.py does not exist'),
    (dict(cfg_options=dict(test_dataloader=None)), 'no test_dataloader'),
    (dict(cfg_options=dict(default_scope='mmengine')), 'one of the packages'),
    (dict(cfg_options={'model.backbone.type': 'mmhier.Hat'}), 'mmhier.Hat'),
])
def test_mistakes(detector, photo, tmp_path, changes, message):
    cv2.imwrite(str(tmp_path / 'a.png'), photo)
    arguments = dict(
        config=DETECTOR,
        checkpoint=detector,
        inputs=str(tmp_path / 'a.png'),
        out_dir=str(tmp_path / 'out'))
    with pytest.raises(MMHierError, match=message):
        infer(**dict(arguments, **changes))


def test_out_dir_that_is_a_file(detector, photo, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), photo)
    with pytest.raises(MMHierError, match='a.png cannot be written to'):
        infer(
            DETECTOR,
            detector,
            str(tmp_path / 'a.png'),
            out_dir=str(tmp_path / 'a.png'))


def test_classes_of_a_model_trained_on_other_data(detector, photo, tmp_path):
    weights = torch.load(detector, weights_only=False)['state_dict']
    torch.save(weights, tmp_path / 'bare.pth')
    predictor = Predictor(
        DETECTOR, str(tmp_path / 'bare.pth'), classes=('a', 'b', 'c'))
    assert predictor.classes == ['a', 'b', 'c']
    with pytest.raises(MMHierError, match='does not fit the model'):
        Predictor(DETECTOR, detector, classes=('a', 'b'))


class Executes:
    """Creates a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path), )


def test_malicious_checkpoint_is_not_executed(tmp_path):
    trap = tmp_path / 'executed'
    torch.save(dict(state_dict={}, meta=Executes(trap)), tmp_path / 'evil.pth')
    (tmp_path / 'old.pth').write_bytes(pickle.dumps(Executes(trap), protocol=2))
    for name in ('evil.pth', 'old.pth'):
        with pytest.raises(MMHierError, match='could execute code|not loaded'):
            Predictor(DETECTOR, str(tmp_path / name))
    assert not trap.exists()


def test_checkpoint_of_another_network(random_weights):
    weights = random_weights(CLASSIFIER, ('bright', 'dark'))
    with pytest.raises(MMHierError, match='does not fit the model'):
        Predictor(DETECTOR, weights)


def test_classes_come_from_the_config_where_no_checkpoint_names_them(
        detector, tmp_path):
    weights = torch.load(detector, weights_only=False)['state_dict']
    torch.save(weights, tmp_path / 'bare.pth')
    predictor = Predictor(DETECTOR, str(tmp_path / 'bare.pth'))
    assert predictor.classes == list(CLASSES)
    assert predictor.class_name(5) == 'class 5'


def call(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *arguments],
                          capture_output=True,
                          text=True,
                          timeout=300,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


def test_command(detector, coco_root, tmp_path):
    out_dir = str(tmp_path / 'out')
    command = (DETECTOR, detector, str(coco_root / 'val2017/001.jpg'),
               '--out-dir', out_dir)
    process = call(*command)
    assert process.returncode == 0, process.stderr
    assert f'1 images done, 0 skipped: {out_dir}/predictions.json' in (
        process.stdout)
    process = call(*command)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(
        f'error: --out-dir {out_dir} holds results already')


def test_help_has_examples(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['infer.py', '--help'])
    with pytest.raises(SystemExit):
        infer_command.main()
    assert 'mmhier infer CONFIG CHECKPOINT photo.jpg' in (
        capsys.readouterr().out)
