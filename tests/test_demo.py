import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from pycocotools.coco import COCO
from mmhier import apis
from mmhier.checkpoints import official_name
from mmhier.cli import demo
from mmhier.datasets import generate_shapes
from mmhier.visualization import comparison

ROOT = Path(__file__).parents[1]
TOOL = ROOT / 'tools/demo.py'
NUM_TRAIN, NUM_VAL = 16, 5
MAX_ITERS = 6


def command(*options):
    # Few pixels: only the order of the steps is tested.
    return [
        sys.executable, TOOL, '--data-root', 'data/shapes', '--work-dir',
        'work_dirs/demo', '--num-train', NUM_TRAIN, '--num-val', NUM_VAL,
        '--cfg-options', f'train_cfg.max_iters={MAX_ITERS}',
        'train_dataloader.batch_size=1', 'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1', *options
    ]


def run(folder, *options):
    return subprocess.run(
        list(map(str, command(*options))),
        cwd=folder,
        capture_output=True,
        text=True)


def interrupt_training(folder):
    process = subprocess.Popen(
        list(map(str, command())),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell in the background has its processes ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if f'[3/{MAX_ITERS}]' in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130, ''.join(lines[-30:])
    text = ''.join(lines)
    assert f'{NUM_TRAIN} + {NUM_VAL} pictures in data/shapes, drawn' in text
    assert 'Training: started' in text
    assert f'Iter(train) [2/{MAX_ITERS}]' in text and 'eta: ' in text
    assert 'Repeat the command to resume' in lines[-1]
    assert not (folder / f'work_dirs/demo/iter_{MAX_ITERS}.pth').exists()


def resume_and_finish(folder):
    result = run(folder)
    assert result.returncode == 1, result.stderr
    assert 'pictures in data/shapes, reused' in result.stdout
    assert 'Training: resumed from iter_' in result.stdout
    assert f'Iter(train) [1/{MAX_ITERS}]' not in result.stdout
    assert f'Iter(train) [{MAX_ITERS}/{MAX_ITERS}]' in result.stdout
    assert ('The weights cannot be fetched here; with a network: mmhier infer '
            f'{demo.TRAINED} {demo.PHOTO}\n') in result.stdout
    # Six iterations are not enough, and that is an error.
    assert result.stderr.strip().splitlines()[-1].startswith(
        'error: bbox AP 0.0')

    work_dir = folder / 'work_dirs/demo'
    metrics = json.loads((work_dir / 'result.json').read_text())
    assert set(metrics) == {'bbox', 'segm'}
    table = result.stdout[result.stdout.index('    AP    AP50'):]
    for kind, values in metrics.items():
        assert f'{kind}  ' + ''.join(f'{value:8.3f}'
                                     for value in values.values()) in table
    pictures = sorted((work_dir / 'pictures').iterdir())
    assert [path.name for path in pictures
            ] == [f'{17 + i:012d}.png' for i in range(NUM_VAL)]
    # Three rows of two pairs.
    pair = cv2.imread(str(pictures[0]))
    sheet = cv2.imread(str(work_dir / 'sheet.png'))
    assert sheet.shape == (3 * pair.shape[0], 2 * pair.shape[1], 3)
    assert (sheet[:pair.shape[0], :pair.shape[1]] == pair).all()


def repeat(folder):
    result = folder / 'work_dirs/demo/result.json'
    # Reached by a whole training.
    good = dict(AP=.9, AP50=.95, AP75=.9, small=.8, medium=.9)
    result.write_text(json.dumps(dict(bbox=good, segm=good)))
    before = {
        path: path.stat().st_mtime_ns
        for path in (folder / 'work_dirs/demo').glob('*')
    }
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert 'pictures in data/shapes, reused' in result.stdout
    assert 'Training: finished before' in result.stdout
    assert 'Evaluation: finished before' in result.stdout
    assert 'Iter(' not in result.stdout
    assert 'bbox     0.900   0.950' in result.stdout
    assert before == {
        path: path.stat().st_mtime_ns
        for path in (folder / 'work_dirs/demo').glob('*')
    }


def change_settings(folder):
    result = run(folder, 'optim_wrapper.optimizer.lr=1e-4')
    assert result.returncode == 2
    assert result.stderr == (
        'error: work_dirs/demo holds something else than the demo with '
        'this data and these settings: delete it or choose another '
        '--work-dir\n')


@pytest.mark.slow
def test_interrupted_resumed_repeated_and_refused(tmp_path, no_network):
    interrupt_training(tmp_path)
    resume_and_finish(tmp_path)
    repeat(tmp_path)
    change_settings(tmp_path)


def test_a_detector_with_official_weights_predicts_the_photo(
        tmp_path, monkeypatch, capsys):
    received = []

    def infer(config, checkpoint, inputs, out_dir):
        received.append((official_name(checkpoint, config), inputs))
        (tmp_path / 'pictures').mkdir()
        (Path(out_dir) / 'pictures/coffee.jpg').touch()

    monkeypatch.setattr(apis, 'infer', infer)
    for _ in range(2):
        demo.predict_photo(tmp_path)
    assert received == [(demo.TRAINED, str(demo.PHOTO))]
    assert cv2.imread(str(demo.PHOTO)).shape == (400, 600, 3)
    printed = capsys.readouterr().out
    assert f'Predictions: {tmp_path}/pictures/coffee.jpg\n' in printed
    assert 'predicted before' in printed


class TestVerdict:

    def metrics(self, bbox, segm):
        return {
            kind: dict(AP=value, AP50=1., AP75=1., small=1., medium=1.)
            for kind, value in (('bbox', bbox), ('segm', segm))
        }

    def test_passes_at_the_bar(self):
        assert demo.find_shortfalls(self.metrics(0.55, 0.5)) == []

    def test_names_what_is_too_low(self):
        assert demo.find_shortfalls(self.metrics(
            0.9, 0.4994)) == ['segm AP 0.499 is lower than 0.50']
        assert len(demo.find_shortfalls(self.metrics(0.1, 0.1))) == 2


class TestDrawInstances:

    @pytest.fixture
    def drawn(self, tmp_path):
        """A ring on grey, drawn with its mask, box and label."""
        generate_shapes(tmp_path / 'set', 1, 1)
        coco = COCO(str(tmp_path / 'set/annotations/instances_train2017.json'))
        image = cv2.imread(str(tmp_path / 'set/train2017/000000000001.jpg'))

        def draw(instances):
            return comparison.draw_instances(image, 'caption', coco, instances)

        return draw, coco

    def test_changes_only_what_the_instance_covers(self, drawn):
        draw, coco = drawn
        annotation = coco.imgToAnns[1][0]
        changed = (draw([]) != draw([annotation])).any(-1)[20:-4, 4:-4]
        mask = coco.annToMask(annotation).astype(bool)
        assert changed[::2, ::2][mask].mean() > 0.99
        x, y, width, height = (2 * int(v) for v in annotation['bbox'])
        changed[max(y - 20, 0):y + height + 2,
                max(x - 60, 0):x + max(width, 60) + 2] = False
        assert not changed.any()

    def test_score_and_crowd_are_written(self, drawn, monkeypatch):
        draw, coco = drawn
        labels = []
        monkeypatch.setattr(comparison, 'write_label',
                            lambda canvas, label, *_: labels.append(label))
        annotation = dict(coco.imgToAnns[1][0], category_id=3)
        draw([
            annotation,
            dict(annotation, score=0.987),
            dict(annotation, iscrowd=1)
        ])
        assert labels == ['ring', 'ring 0.99', 'crowd: ring', 'caption']
